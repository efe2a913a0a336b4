"""The low-bit study (arXiv 2404.14047): what quantization costs, method by bits by seed, on the same text.

``settings`` says what may be set, ``cells`` quantizes and measures one row of the matrix at a time and keeps it,
``tuning`` fine-tunes adapters on a quantized base, ``findings`` makes the claims, ``recipe`` runs it all.
"""

from corral.studies.low_bit_study.recipe import RECIPE

__all__ = ["RECIPE"]
