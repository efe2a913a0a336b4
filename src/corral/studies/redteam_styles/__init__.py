"""The red-team study: what encodings cost a guard, what decoding gives back, and how far judges agree with people.

``settings`` says what may be set, ``stand_ins`` has what the tiny profile runs on, ``evidence`` makes claims of a run's
report and of the judges' agreement, ``recipe`` runs it all.
"""

from corral.studies.redteam_styles.recipe import RECIPE

__all__ = ["RECIPE"]
