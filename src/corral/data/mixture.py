"""Mixing labelled sets: which rows of which source, how many, with which labels overridden.

A mixture is data (a list of entries in a recipe), so what a guard was trained on can be read, copied and edited.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from pydantic import Field

from corral.core.config import Config
from corral.core.errors import ConfigError
from corral.data.examples import ModerationExample
from corral.data.taxonomy import load_taxonomy

_FIELDS: Final = ("target", "harmful", "refusal", "attack", "language", "split")


class MixtureEntry(Config):
    """Rows of one source.

    ``where`` compares a field of the example (target, harmful, refusal, attack, language, split) or else an upstream
    column with a value or a list of values; every condition must hold.
    """

    source: str
    where: Mapping[str, Any] = Field(default_factory=dict)
    label: Mapping[str, bool | None] = Field(
        default_factory=dict, description="labels that override the source's: harmful, refusal, attack"
    )
    category: str | None = Field(None, description="qualified code that is set to true")
    sole_category: bool = Field(False, description="a row of a category is in no other category of its taxonomy")
    max_chars: int | None = Field(
        None, ge=1, description="leave longer judged messages out: training cuts long rows, and with them the reason"
    )
    cap: int = Field(10_000_000, ge=1, description="rows at the most, taken group by group at random")
    copies: int = Field(1, ge=1, description="times that each of its rows stands in the mixture")

    def admits(self, row: ModerationExample) -> bool:
        """Whether the row meets every condition and the length limit."""
        return matches(row, self.where) and (self.max_chars is None or len(row.text) <= self.max_chars)


@dataclass(slots=True)
class MixtureCounts:
    """How many rows of an entry were there, and what became of them."""

    available: int = 0
    overlapping: int = 0
    contaminated: int = 0
    taken: int = 0


@dataclass(slots=True)
class Mixture:
    """The rows of a mixture, in the order of its entries, with an account of each entry."""

    rows: list[ModerationExample] = field(default_factory=list)
    counts: list[tuple[str, MixtureCounts]] = field(default_factory=list)


def build_mixture(
    entries: Iterable[MixtureEntry],
    load: Callable[[str], Iterable[ModerationExample]],
    *,
    contaminated: Callable[[str], bool],
    seed: int,
    share: float = 1.0,
) -> Mixture:
    """Draw the rows of each entry.

    Rows with a non-empty ``eval_overlap`` and rows that ``contaminated`` says repeat evaluation text are left out and
    counted. A row that an earlier entry has taken is not taken again.

    Args:
        entries: the mixture.
        load: streams the rows of a source by name.
        contaminated: whether a text repeats evaluation text.
        seed: of the draw.
        share: of the rows that each entry would take, rounded up: a smaller mixture of the same make-up.

    Raises:
        ConfigError: an entry takes no row, or overrides a label that does not exist.
    """
    mixture = Mixture()
    taken: set[tuple[str, str, str]] = set()
    for number, entry in enumerate(entries):
        counts = MixtureCounts()
        clean = []
        for row in load(entry.source):
            if not entry.admits(row) or (row.source, row.id, row.target) in taken:
                continue
            counts.available += 1
            if row.eval_overlap:
                counts.overlapping += 1
            elif any(
                contaminated(message.text) for message in row.conversation.messages if message.role != "assistant"
            ):
                counts.contaminated += 1
            else:
                clean.append(row)
        cap = math.ceil(share * min(entry.cap, len(clean)))
        chosen = sample_groups(clean, cap, rng=np.random.default_rng([seed, number]))
        if not chosen:
            raise ConfigError(f"no row of `{entry.source}` matches", where=f"mixture[{number}]")
        taken.update((row.source, row.id, row.target) for row in chosen)
        counts.taken = len(chosen) * entry.copies
        mixture.rows += [relabel(row, entry) for row in chosen] * entry.copies
        mixture.counts.append((entry.source, counts))
    return mixture


def sample_groups(rows: list[ModerationExample], cap: int, *, rng: np.random.Generator) -> list[ModerationExample]:
    """At most ``cap`` rows: one of each group in random order, then a second of each, until the cap is reached."""
    if len(rows) <= cap:
        return rows
    groups: dict[str, list[int]] = defaultdict(list)
    for index in rng.permutation(len(rows)):
        groups[rows[index].group].append(int(index))
    members = list(groups.values())
    rounds = max(len(group) for group in members)
    order = [group[turn] for turn in range(rounds) for group in members if turn < len(group)]
    return [rows[index] for index in sorted(order[:cap])]


def matches(row: ModerationExample, where: Mapping[str, Any]) -> bool:
    """Whether every condition holds; an upstream column that the row does not have matches nothing but null."""
    for name, wanted in where.items():
        value = getattr(row, name) if name in _FIELDS else row.raw.get(name)
        if value not in (wanted if isinstance(wanted, list | tuple) else (wanted,)):
            return False
    return True


def relabel(row: ModerationExample, entry: MixtureEntry) -> ModerationExample:
    """The row under the entry's labels.

    Raises:
        ConfigError: a label that examples do not have.
    """
    for name in entry.label:
        if name not in {"harmful", "refusal", "attack"}:
            raise ConfigError(f"no label is called `{name}`", where=f"mixture entry of `{entry.source}`")
    labels: dict[str, Any] = dict(entry.label)
    changed = replace(row, **labels) if labels else row
    if entry.category is not None:
        taxonomy = entry.category.partition("/")[0]
        changed = replace(changed, categories={**changed.categories, entry.category: True}, taxonomy=taxonomy)
    return _alone_in_its_category(changed) if entry.sole_category else changed


def _alone_in_its_category(row: ModerationExample) -> ModerationExample:
    """The row with every category that it says nothing about set to false, where it says that it is in one."""
    if not any(row.categories.values()):
        return row
    taxonomy = load_taxonomy(row.taxonomy)
    others = {f"{taxonomy.id}/{category.code}": False for category in taxonomy.categories}
    return replace(row, categories=others | dict(row.categories))
