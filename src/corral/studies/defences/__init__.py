"""Defences side by side: the same requests in the same styles against every system, with what each one costs.

``asking`` asks every system, ``costs`` measures ability and time, ``lines`` makes the table; other studies use these
three. ``settings`` and ``systems`` say what a user may compare, ``recipe`` runs it.
"""

from corral.studies.defences.recipe import RECIPE

__all__ = ["RECIPE"]
