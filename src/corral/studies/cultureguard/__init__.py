"""The CultureGuard study (arXiv 2508.01710), its guard part: a small LoRA that answers in JSON, and other languages.

``settings`` says what may be set, ``rows`` draws the data, ``trainings`` trains and judges, ``json_guard`` and
``language_gap`` make claims of what was judged, ``recipe`` runs it all. The pipeline that makes the data is no part of
it.
"""

from corral.studies.cultureguard.recipe import RECIPE

__all__ = ["RECIPE"]
