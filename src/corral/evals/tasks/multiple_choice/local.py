"""The packaged local sets: small, self-written, above chance and below the ceiling for a small model.

They tell whether a change cost ability where no public set is at hand. They are too small and too easy to rank models;
the card beside the items says how they were made, and what a model of 135 million parameters scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from typing import Final

from corral.core.errors import NotFoundError, suggest
from corral.evals.tasks.multiple_choice.items import ChoiceItem, ChoiceSet

LOCAL_SETS: Final = (
    "everyday_knowledge",
    "arithmetic",
    "grammar",
    "story_continuation",
    "instruction_choice",
    "refusal_contrast",
)
"""Names of the packaged sets."""

_NORMALISED: Final = frozenset({"story_continuation", "instruction_choice"})
"""Their choices differ in length, so the accuracy by length counts."""

_NOT_BY_LENGTH: Final = frozenset({"grammar", "refusal_contrast"})
"""In many of their items it is the beginnings that differ."""


def local_set(name: str) -> ChoiceSet:
    """A packaged set.

    Raises:
        NotFoundError: no such set.
    """
    if name not in LOCAL_SETS:
        raise NotFoundError(f"no local set is named `{name}`", hint=suggest(name, LOCAL_SETS))
    return ChoiceSet(name, tuple(_items(name)), normalised=name in _NORMALISED, by_length=name not in _NOT_BY_LENGTH)


def local_sets() -> tuple[ChoiceSet, ...]:
    """All packaged sets."""
    return tuple(local_set(name) for name in LOCAL_SETS)


def _items(name: str) -> Iterator[ChoiceItem]:
    file = resources.files("corral.evals.tasks.local") / f"{name}.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "ending" in row:
            yield ChoiceItem.partial(row["id"], row["beginnings"], row["ending"], row["answer"], topic=row["topic"])
        else:
            yield ChoiceItem.question(row["id"], row["context"], row["choices"], row["answer"], topic=row["topic"])
