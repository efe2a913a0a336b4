"""The WildGuard study (arXiv 2406.18495): three tasks in one answer, with and without adversarial training rows.

``settings`` says what may be set, ``sources`` and ``rows`` draw the data, ``trainings`` trains and scores, ``measures``
and ``evidence`` make claims of the scores, ``moderation`` puts the guard around a model, ``recipe`` runs it all.
"""

from corral.studies.wildguard.recipe import RECIPE

__all__ = ["RECIPE"]
