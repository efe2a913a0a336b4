"""The DeRTa study (arXiv 2407.09121): arms trained alike, and how ready each is to refuse inside a harmful answer.

``settings`` says what may be set, ``rows`` draws triples, help rows and probes (``templated`` invents them),
``trainings`` trains every arm for every seed, ``measures`` probes each model once, ``evidence`` makes the claims,
``recipe`` runs it all.
"""

from corral.studies.derta.recipe import RECIPE

__all__ = ["RECIPE"]
