"""The default guard: how its halves are trained, and what is required of it.

``settings`` says what may be set, ``rows`` draws what stages learn and what they hold out, ``recipe`` trains the stages
and writes the guard's folder, ``calibration`` fits it on held-out rows, ``refit`` trains chosen heads anew at the end,
``claims`` holds a finished evaluation against what is required.
"""

from corral.studies.default_guard.recipe import RECIPE

__all__ = ["RECIPE"]
