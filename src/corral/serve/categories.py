"""OpenAI's thirteen moderation categories, from what the guards scored in their own taxonomies.

A category's score is the highest of the guards' categories that are the same or narrower: what falls under those falls
under it. A category that the guards only know as a part of something broader is not scored (0, and listed under
``unscored``): a guard of hate has not said that there were threats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from corral.core.errors import NotFoundError
from corral.data.taxonomy import crosswalk, load_taxonomy, qualified
from corral.guards.base import Verdict

OPENAI: Final = "openai_moderation"


@cache
def openai_categories() -> tuple[str, ...]:
    """The names, in OpenAI's order."""
    return load_taxonomy(OPENAI).codes


def openai_scores(verdicts: Sequence[Verdict]) -> dict[str, float | None]:
    """By category: the highest score that implies it, ``None`` where no guard scores it."""
    scores: dict[str, float | None] = {}
    for name in openai_categories():
        found = [
            verdict.categories[code]
            for verdict in verdicts
            for code in _implying(name, _taxonomies(verdict.categories))
            if code in verdict.categories
        ]
        scores[name] = max(found, default=None)
    return scores


def _taxonomies(categories: Mapping[str, float]) -> frozenset[str]:
    return frozenset(code.partition("/")[0] for code in categories)


@cache
def _implying(name: str, taxonomies: frozenset[str]) -> tuple[str, ...]:
    """Qualified codes whose presence implies the category."""
    codes: list[str] = []
    for taxonomy in sorted(taxonomies):
        try:
            counterparts = crosswalk(qualified(OPENAI, name), taxonomy)
        except NotFoundError:  # a taxonomy of the user's own has no crosswalk
            continue
        codes += [code for code, relation in counterparts if relation in ("exact", "narrower")]
    return tuple(codes)
