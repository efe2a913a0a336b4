"""Splits that keep groups whole, the same on every machine."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from corral.data.examples import ModerationExample


def group_fraction(group: str, *, seed: int) -> float:
    """A number in [0, 1) that depends on the group and the seed alone."""
    digest = hashlib.sha256(f"{seed}/{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_by_group(
    examples: Iterable[ModerationExample], *, held_out: float, seed: int
) -> tuple[list[ModerationExample], list[ModerationExample]]:
    """Training rows and held-out rows; rows that share a group land on the same side.

    Args:
        examples: rows with their ``group`` set.
        held_out: expected share of groups held out, in [0, 1].
        seed: of the split.
    """
    kept: list[ModerationExample] = []
    held: list[ModerationExample] = []
    for example in examples:
        (held if group_fraction(example.group, seed=seed) < held_out else kept).append(example)
    return kept, held


def draw_groups(examples: Sequence[ModerationExample], limit: int | None, *, seed: int) -> list[ModerationExample]:
    """At most ``limit`` rows in their order, whole groups drawn at random; all rows when it is ``None``.

    Sets that share groups (translations of one set) get aligned draws from one seed.
    """
    if limit is None or len(examples) <= limit:
        return list(examples)
    sizes = Counter(example.group for example in examples)
    kept: set[str] = set()
    total = 0
    for group in sorted(sizes, key=lambda name: group_fraction(name, seed=seed)):
        if total + sizes[group] <= limit:
            kept.add(group)
            total += sizes[group]
    return [example for example in examples if example.group in kept]
