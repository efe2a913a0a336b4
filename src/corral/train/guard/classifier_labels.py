"""From a moderation example to the labels of a guard's heads; what a row does not say is unknown, never zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from corral.data.examples import ModerationExample
from corral.guards.default.network import BINARY_HEADS

_UNKNOWN: Final = -100.0


def binary_labels(row: ModerationExample) -> list[float]:
    """Labels of the binary heads in the order of ``BINARY_HEADS``: 1, 0, or -100 for unknown."""
    known: dict[str, bool | None] = {f"{row.target}_harm": row.harmful}
    if row.target == "prompt":
        known["prompt_attack"] = row.attack
    else:
        known["response_refusal"] = row.refusal
    labels = [known.get(head) for head in BINARY_HEADS]
    return [_UNKNOWN if label is None else float(label) for label in labels]


def category_labels(row: ModerationExample, codes: Sequence[str]) -> list[float]:
    """Labels of the categories ``codes``: 1, 0, or -100 for unknown."""
    return [float(row.categories[code]) if code in row.categories else _UNKNOWN for code in codes]
