"""The Egida study (arXiv 2502.13603): pairs from a model's own unsafe answers, and what they carry over to.

``settings`` says what may be set, ``instances`` draws, expands and splits requests, ``trainings`` mines pairs and
trains on them, ``measures`` attacks and scores each model, ``evidence`` makes the claims, ``recipe`` runs it all;
``stand_ins`` are what the tiny profile runs on.
"""

from corral.studies.egida.recipe import RECIPE

__all__ = ["RECIPE"]
