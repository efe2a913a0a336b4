"""Llama Guard's augmentation: which categories stand in the prompt of a training row, and in what order.

What makes the text of a policy matter (arXiv 2312.06674, section 3.3). For a row that violates V of the categories C:

1. drop k categories of C minus V, k uniform on 0 to |C minus V|; the label stays;
2. or drop all of V, and a random number of others: the row is safe under what is left;
3. shuffle the kept categories, which numbers them anew.

At least one category is always kept, so k goes to |C| - 1 when V is empty.

A policy of its own for every row leaves no prefix to share, and a prefix is most of a prompt. ``PolicyPool`` therefore
lets several rows take one drawn policy. Each row still has its own draw of step 1 or 2 and of the number of categories
kept, exactly as without sharing, and takes only a policy of that size that has all of V (none of V in step 2); what
sharing gives up is that the other categories and the order are drawn anew for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import Field

from corral.core.config import Config


class AugmentationConfig(Config):
    """How policies are varied over training rows."""

    mode: Literal["paper", "formatter", "none"] = Field(
        "paper",
        description="paper: one varied copy a row; formatter: the full policy and varied copies; none: the full policy",
    )
    drop: bool = Field(True, description="drop a random number of categories that are not violated")
    flip_probability: float = Field(
        0.25, ge=0, le=1, description="of dropping all violated ones, which makes the row safe (mode paper)"
    )
    flip_copies: bool = Field(False, description="such a copy of every violating row (mode formatter)")
    shuffle: bool = Field(True, description="shuffle the kept categories")
    copies: int = Field(
        1, ge=1, description="times that a row is drawn, each with a policy of its own (modes paper and none)"
    )
    share_policies: int = Field(1, ge=1, description="rows that may take one drawn policy; 1: each draws its own")


@dataclass(frozen=True, slots=True)
class PolicyWish:
    """What a row asks of the policy in its prompt.

    Attributes:
        size: categories in it.
        has: all of these among them.
        lacks: none of these.
    """

    size: int
    has: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()

    def fits(self, kept: Sequence[str]) -> bool:
        """Whether a policy of these categories is what is asked for."""
        return len(kept) == self.size and self.has.issubset(kept) and self.lacks.isdisjoint(kept)


def draw_wishes(
    categories: Sequence[str], violated: frozenset[str], config: AugmentationConfig, rng: np.random.Generator
) -> list[PolicyWish]:
    """The copies of one row: what each asks of its policy.

    Args:
        categories: all codes of the policy.
        violated: those that the row violates, empty for a safe one.
        config: settings.
        rng: the row's own.
    """
    whole = PolicyWish(len(categories), has=violated)
    match config.mode:
        case "none":
            return [whole] * config.copies
        case "formatter":
            kept = [_drop_others(categories, violated, rng)] if config.drop else []
            may_flip = config.flip_copies and _can_flip(categories, violated)
            return [whole, *kept, *([_drop_violated(categories, violated, config, rng)] if may_flip else [])]
        case "paper":
            return [_drawn(categories, violated, config, rng) for _ in range(config.copies)]


def _drawn(
    categories: Sequence[str], violated: frozenset[str], config: AugmentationConfig, rng: np.random.Generator
) -> PolicyWish:
    if rng.random() < config.flip_probability and _can_flip(categories, violated):
        return _drop_violated(categories, violated, config, rng)
    return _drop_others(categories, violated, rng) if config.drop else PolicyWish(len(categories), has=violated)


def _can_flip(categories: Sequence[str], violated: frozenset[str]) -> bool:
    return 0 < len(violated) < len(categories)


def _drop_others(categories: Sequence[str], violated: frozenset[str], rng: np.random.Generator) -> PolicyWish:
    dropped = int(rng.integers(0, min(len(categories) - len(violated), len(categories) - 1), endpoint=True))
    return PolicyWish(len(categories) - dropped, has=violated)


def _drop_violated(
    categories: Sequence[str], violated: frozenset[str], config: AugmentationConfig, rng: np.random.Generator
) -> PolicyWish:
    others = len(categories) - len(violated)
    dropped = int(rng.integers(0, others)) if config.drop else 0
    return PolicyWish(others - dropped, lacks=violated)


@dataclass(slots=True)
class PolicyPool:
    """Policies drawn so far that further rows may take.

    Attributes:
        categories: all codes, in the policy's order.
        share: rows that may take one policy.
        shuffle: shuffle what is kept, else keep the policy's order.
    """

    categories: tuple[str, ...]
    share: int
    shuffle: bool
    _open: dict[int, list[tuple[tuple[str, ...], int]]] = field(default_factory=dict)

    def take(self, wish: PolicyWish, rng: np.random.Generator) -> tuple[str, ...]:
        """The first open policy that fits, or a new one drawn by ``rng``; codes in the order of the prompt."""
        candidates = self._open.setdefault(wish.size, [])
        for index, (kept, places) in enumerate(candidates):
            if wish.fits(kept):
                candidates[index : index + 1] = [(kept, places - 1)] if places > 1 else []
                return kept
        drawn = self._draw(wish, rng)
        if self.share > 1:
            candidates.append((drawn, self.share - 1))
        return drawn

    def _draw(self, wish: PolicyWish, rng: np.random.Generator) -> tuple[str, ...]:
        free = [code for code in self.categories if code not in wish.has and code not in wish.lacks]
        chosen = (
            {free[i] for i in rng.choice(len(free), size=wish.size - len(wish.has), replace=False)} if free else set()
        )
        kept = [code for code in self.categories if code in wish.has or code in chosen]
        return tuple(kept[i] for i in rng.permutation(len(kept))) if self.shuffle else tuple(kept)
