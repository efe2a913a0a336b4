"""The study of MoGU: do the gates know malice from the rest, and what does each defence give and cost?"""

from corral.studies.mogu.recipe import RECIPE, MoguRecipe

__all__ = ["RECIPE", "MoguRecipe"]
