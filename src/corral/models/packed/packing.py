"""From token ids to a packing: sequences behind one prefix, each followed by the tokens that its labels need.

A label of several tokens is scored by the positions before each of them. So the beginnings of the labels, without
their last tokens, follow the sequence as branches of a tree: each token sees the sequence and the tokens that lead to
it. Where the branches form one line, as for ``safe`` and ``un-safe``, this is plain causal attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from corral.models.packed.attention import Segment
from corral.models.packed.decoder import Packing

Tokens = Sequence[int]


class LabelTree:
    """The tokens that labels have in common, and where the probability of each token of a label is read.

    Positions are numbered from 0, the last token of the sequence; the beginnings of labels follow, parents first.

    Args:
        labels: token ids of each, none empty.

    Attributes:
        tokens: of positions 1 and up.
        depths: of positions 1 and up: tokens from the beginning of the label, 1 for its first.
        places: for each label, the positions where its tokens are read.
    """

    def __init__(self, labels: Sequence[Tokens]) -> None:
        beginnings = sorted({tuple(label[:end]) for label in labels for end in range(1, len(label))}, key=len)
        position = {beginning: i for i, beginning in enumerate([(), *beginnings])}
        self.tokens = [beginning[-1] for beginning in beginnings]
        self.depths = [len(beginning) for beginning in beginnings]
        self.places = [[position[tuple(label[:end])] for end in range(len(label))] for label in labels]
        self._visible = torch.tensor([[b[: len(a)] == a for a in beginnings] for b in beginnings], dtype=torch.bool)
        self._visible = self._visible.view(len(beginnings), len(beginnings))
        self._is_line = self.depths == list(range(1, len(self.depths) + 1)) and bool(
            (self._visible == torch.ones_like(self._visible).tril()).all()
        )

    def visible(self, tokens: int) -> Tensor:
        """Which of ``tokens`` and the positions after them each of these sees: (T, T), T counting both."""
        total = tokens + len(self.tokens)
        seen = torch.ones(total, total, dtype=torch.bool).tril()
        seen[tokens:, tokens:] = self._visible
        return seen

    @property
    def is_line(self) -> bool:
        """Whether every position sees all before it."""
        return self._is_line


def pack(tails: Sequence[Tokens], tree: LabelTree, *, prefix: int) -> Packing:
    """Sequences that share a prefix of ``prefix`` tokens, given by what follows it, none empty.

    Each is followed by the tree's tokens; read are its last token and these, in this order.
    """
    ids: list[int] = []
    positions: list[int] = []
    reads: list[int] = []
    segments = []
    read_segments = []
    branches = len(tree.tokens)
    for tail in tails:
        tokens = slice(len(ids), len(ids) + len(tail) + branches)
        rows = slice(len(reads), len(reads) + 1 + branches)
        end = prefix + len(tail)
        ids += [*tail, *tree.tokens]
        positions += [*range(prefix, end), *(end - 1 + depth for depth in tree.depths)]
        reads += range(tokens.stop - 1 - branches, tokens.stop)
        visible = tree.visible(len(tail))
        segments.append(Segment(tokens, tokens, None if tree.is_line else visible))
        read_segments.append(Segment(rows, tokens, visible[len(tail) - 1 :]))
    return Packing(torch.tensor(ids), torch.tensor(positions), segments, torch.tensor(reads), read_segments)
