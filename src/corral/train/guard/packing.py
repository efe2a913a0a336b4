"""Packing rows that ask the same question: what they share is computed once.

A guard's prompt is mostly policy. Rows of one policy begin with the same tokens, so they are laid out as a group

    [prefix | row 1 from there on | row 2 from there on | ...]

in which every row sees the prefix and itself, at the positions it would have alone; groups stand side by side and do
not see each other. A token's hidden state depends on what it sees and on its position only, and the gradients of the
rows add up in the prefix: logits, loss and gradients are those of separate rows.

Legend: T tokens of a packed sequence, N scored tokens in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from corral.core.errors import ConfigError
from corral.train.guard.packed_attention import group_layout

_OPEN_SEQUENCES: Final = 32


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One prompt with its answer.

    Attributes:
        ids: token ids, up to the last scored one.
        scored: ascending positions in ``ids`` whose tokens are in the loss; never the first token.
        policy: rows with the same key may share what their ids begin with.
    """

    ids: tuple[int, ...]
    scored: tuple[int, ...]
    policy: str


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one policy in one sequence.

    Attributes:
        shared: tokens of the prefix, which is the beginning of every row; 0 for a single row.
        rows: indices of the rows.
    """

    shared: int
    rows: tuple[int, ...]


def shared_lengths(rows: Sequence[EncodedRow]) -> dict[str, int]:
    """Longest common beginning of the rows of each policy, short of the token before the first scored one of any."""
    by_policy: dict[str, list[EncodedRow]] = {}
    for row in rows:
        by_policy.setdefault(row.policy, []).append(row)
    return {
        policy: min(_common_beginning([row.ids for row in members]), min(row.scored[0] for row in members) - 1)
        for policy, members in by_policy.items()
    }


def _common_beginning(rows: Sequence[tuple[int, ...]]) -> int:
    """What the first and the last in lexicographic order have in common, all between them have too."""
    first, last = min(rows), max(rows)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def plan_sequences(rows: Sequence[EncodedRow], *, max_tokens: int, epochs: int, seed: int) -> list[tuple[Group, ...]]:
    """Which rows stand together in which sequence, every row once an epoch; the same arguments give the same plan.

    All epochs are one list, so that a resumed run only has to skip sequences.

    Raises:
        ConfigError: there is no row, or one is longer than ``max_tokens``.
    """
    if not rows:
        raise ConfigError("there are no training rows")
    longest = max(len(row.ids) for row in rows)
    if longest > max_tokens:
        raise ConfigError(
            f"a row has {longest} tokens, a packed sequence at most `{max_tokens}`",
            where="batch_tokens",
            hint="Raise it, or shorten messages first.",
        )
    shared = shared_lengths(rows)
    return [
        sequence
        for epoch in range(epochs)
        for sequence in _epoch(rows, shared, max_tokens, np.random.default_rng([seed, epoch]))
    ]


def _epoch(
    rows: Sequence[EncodedRow], shared: dict[str, int], max_tokens: int, rng: np.random.Generator
) -> list[tuple[Group, ...]]:
    by_policy: dict[str, list[int]] = {}
    for index in rng.permutation(len(rows)).tolist():
        by_policy.setdefault(rows[index].policy, []).append(index)
    groups = [
        group for policy, members in by_policy.items() for group in _groups(rows, members, shared[policy], max_tokens)
    ]
    sequences = _first_fit(groups, [_tokens(rows, group) for group in groups], max_tokens)
    return [sequences[i] for i in rng.permutation(len(sequences))]


def _groups(rows: Sequence[EncodedRow], members: Iterable[int], shared: int, max_tokens: int) -> list[Group]:
    """Rows of one policy, cut in their order to groups that fit a sequence."""
    groups: list[list[int]] = []
    room = 0
    for index in members:
        private = len(rows[index].ids) - shared
        if private > room:
            groups.append([])
            room = max_tokens - shared
        groups[-1].append(index)
        room -= private
    return [Group(shared if len(group) > 1 else 0, tuple(group)) for group in groups]


def _tokens(rows: Sequence[EncodedRow], group: Group) -> int:
    return group.shared + sum(len(rows[index].ids) - group.shared for index in group.rows)


def _first_fit(groups: Sequence[Group], sizes: Sequence[int], max_tokens: int) -> list[tuple[Group, ...]]:
    """Groups side by side, each in the first of the latest sequences that has room for it."""
    sequences: list[list[Group]] = []
    room: list[int] = []
    for group, size in zip(groups, sizes, strict=True):
        recent = range(max(0, len(sequences) - _OPEN_SEQUENCES), len(sequences))
        chosen = next((index for index in recent if room[index] >= size), None)
        if chosen is None:
            chosen = len(sequences)
            sequences.append([])
            room.append(max_tokens)
        sequences[chosen].append(group)
        room[chosen] -= size
    return [tuple(sequence) for sequence in sequences]


def pack(rows: Sequence[EncodedRow], groups: Sequence[Group]) -> dict[str, Any]:
    """A packed sequence as tensors, nested in plain containers so that a trainer can move them to its device.

    Returns:
        ``input_ids`` and ``position_ids`` (1, T); ``layout``, as ``packed_attention`` takes it; ``predictors`` (N), the
        places whose hidden state predicts a scored token; and ``labels`` (N), those tokens.
    """
    ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    labels: list[int] = []
    layout = []
    for group in groups:
        members = [rows[index] for index in group.rows]
        ids += members[0].ids[: group.shared]
        positions += range(group.shared)
        for row in members:
            offset = len(ids) - group.shared
            predictors += (offset + position - 1 for position in row.scored)
            labels += (row.ids[position] for position in row.scored)
            ids += row.ids[group.shared :]
            positions += range(group.shared, len(row.ids))
        layout.append(group_layout(group.shared, [len(row.ids) - group.shared for row in members]))
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "layout": layout,
        "predictors": torch.tensor(predictors),
        "labels": torch.tensor(labels),
    }
