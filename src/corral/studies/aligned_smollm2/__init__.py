"""The study that teaches SmolLM2 to refuse: supervised fine-tuning, then preference pairs, measured beside the base."""

from corral.studies.aligned_smollm2.recipe import RECIPE, AlignedRecipe

__all__ = ["RECIPE", "AlignedRecipe"]
