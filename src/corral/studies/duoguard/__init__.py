"""The DuoGuard study (arXiv 2502.05163), its classifier part: the loss of the head, and what one forward pass saves.

``settings`` says what may be set, ``rows`` draws the data, ``trainings`` trains and judges, ``losses`` and ``speed``
make claims of it, ``recipe`` runs it all. The two players that make the data are no part of it.
"""

from corral.studies.duoguard.recipe import RECIPE

__all__ = ["RECIPE"]
