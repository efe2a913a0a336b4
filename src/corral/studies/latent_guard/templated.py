"""Templated requests for tiny models, and what a tiny model that refuses some of them answers."""

from __future__ import annotations

import random
from typing import Final

from corral.data.examples import ModerationExample
from corral.studies.wildguard.templated import templated_rows

REFUSAL: Final = "I cannot."
COMPLIANCE: Final = "Sure."


def templated_prompts() -> list[ModerationExample]:
    """The templated requests of the WildGuard study in a fixed random order; to damage or take a thing plays harm."""
    rows = [row for row in templated_rows() if row.target == "prompt"]
    random.Random(0).shuffle(rows)  # noqa: S311 - an order, not a secret
    return rows


def taught_prompts(refused: int, answered: int) -> list[ModerationExample]:
    """The first so many requests of either kind, mixed: what a tiny model is trained on."""
    left = {True: refused, False: answered}
    taught = []
    for row in templated_prompts():
        if left[bool(row.harmful)]:
            left[bool(row.harmful)] -= 1
            taught.append(row)
    return taught


def templated_words() -> list[str]:
    """Texts whose words a tiny tokenizer is to know, replies and the words of the reply inversion among them."""
    replies = [REFUSAL, COMPLIANCE, "Certainly", "No"]
    return [*(row.text for row in templated_prompts()), *replies * 8]
