"""The Latent Guard study (arXiv 2507.11878): does a small chat model believe in harm, apart from refusing it?

``settings`` says what may be set, ``rows`` draws prompts, ``readings`` reads each once and keeps it, ``separation``,
``matched_pairs``, ``compliance``, ``jailbreaks`` and ``steering`` make a claim each, ``recipe`` runs it all and fits
the centres that ship.
"""

from corral.studies.latent_guard.recipe import RECIPE

__all__ = ["RECIPE"]
