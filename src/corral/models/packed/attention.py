"""Attention of packed tokens to a prefix that they share and to their own segments.

Short segments behind a short prefix are computed together (``rectangles``). Otherwise the prefix's keys and values lie
once in a buffer, with room behind them; each segment writes its own there in turn, so nothing of the prefix is copied
for a row, and one softmax covers both parts. The query heads that share a key head are rows of one matrix: a product
per key head, of a size that keeps the scores in the second-level cache, where the exponential, the sum and the product
with the values then find them.

No maximum is subtracted: the scores of trained models are far from the limits of bfloat16's exponent, which is
float32's. Sums of weights that come near those limits, or are no numbers, are found, and all is computed again in
float32 with the maximum subtracted.

Legend: N packed tokens, Q queries of a packing, P prefix tokens, T tokens of a segment, K key heads, G query heads
that share one, E head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from corral.models.packed.rectangles import LONGEST_PREFIX, LONGEST_SEGMENT, AttentionSizes, Rectangle, alike

SCORE_BYTES: Final = 512 * 1024
"""Scores that a thread works on at a time; measured on cores with 1 MB of second-level cache."""

# Segments that are short together are one: a product of few rows costs about as much as one of some more.
_MERGED_TOKENS: Final = 128
_SMALLEST_SUM: Final = 2.0**-100
_LARGEST_SUM: Final = 2.0**100


@dataclass(frozen=True, slots=True)
class Segment:
    """Queries of a packing that see the prefix and tokens of their own.

    Attributes:
        queries: which rows of the queries.
        tokens: which packed tokens they may see.
        visible: (queries, tokens), true where a query sees a token; ``None`` for causal, the two being the same tokens.
            With more columns than tokens it is also about as many of the prefix's last tokens, all of which are seen
            otherwise.
    """

    queries: slice
    tokens: slice
    visible: Tensor | None = None


@dataclass(frozen=True, slots=True)
class KeysValues:
    """Keys and values of one layer, both (K, tokens, E); keys hold their positions and the scale of the scores."""

    keys: Tensor
    values: Tensor

    def first(self, tokens: int) -> KeysValues:
        """Those of the first tokens; a view."""
        return KeysValues(self.keys[:, :tokens], self.values[:, :tokens])


class Attended(NamedTuple):
    """What queries read: the mean of the values is the quotient of the two.

    Attributes:
        values_KQGE: sums of values, weighted.
        sums_KQG: sums of the weights.
    """

    values_KQGE: Tensor
    sums_KQG: Tensor


class _Block(NamedTuple):
    """Queries that are worked on at once, the columns that they may see, and what is added to the last of these."""

    queries: slice
    columns: int
    bias: Tensor


class PrefixAttention:
    """Attention over one packing behind one prefix, for as many layers as share the packing.

    Args:
        segments: partition the queries.
        sizes: of heads and prefix.
    """

    def __init__(self, segments: Sequence[Segment], sizes: AttentionSizes) -> None:
        self._segments = segments
        self._sizes = sizes
        may_join = [sizes.prefix <= LONGEST_PREFIX and _is_short(segment) for segment in segments]
        short = [segment for segment, joins in zip(segments, may_join, strict=True) if joins]
        others = [segment for segment, joins in zip(segments, may_join, strict=True) if not joins]
        room = SCORE_BYTES * torch.get_num_threads()
        groups = alike(
            [segment.tokens for segment in short],
            room=room,
            bytes_a_cell=sizes.group * sizes.dtype.itemsize,
            prefix=sizes.prefix,
        )
        self._rectangles = [Rectangle(group, sizes, room=room) for group in groups]
        self._blocks = _BlockAttention(others, sizes) if others else None

    def __call__(self, query_KQGE: Tensor, own: KeysValues, prefix: KeysValues | None) -> Attended:
        """What every query reads.

        Args:
            query_KQGE: contiguous.
            own: of the packed tokens, (K, N, E).
            prefix: of P tokens; ``None`` for none.
        """
        attended = Attended(torch.empty_like(query_KQGE), query_KQGE.new_empty(query_KQGE.shape[:3]))
        for rectangle in self._rectangles:
            rectangle.attend(query_KQGE, own, prefix, attended)
        if self._blocks is not None:
            self._blocks.attend(query_KQGE, own, prefix, attended)
        smallest, largest = (float(sums) for sums in attended.sums_KQG.aminmax())
        if not (smallest >= _SMALLEST_SUM and largest <= _LARGEST_SUM):
            _BlockAttention(self._segments, self._sizes).attend_carefully(query_KQGE, own, prefix, attended)
        return attended


class _BlockAttention:
    """Attention of one segment after the other, a block of queries at a time; arguments as ``PrefixAttention``."""

    def __init__(self, segments: Sequence[Segment], sizes: AttentionSizes) -> None:
        prefix, key_heads, group, head_size, dtype = sizes
        self._prefix = prefix
        self._group = group
        segments = _merged(segments)
        longest = prefix + max(_length(segment.tokens) for segment in segments)
        self._keys = torch.empty(key_heads, longest, head_size, dtype=dtype)
        self._values = torch.empty_like(self._keys)
        room = SCORE_BYTES * torch.get_num_threads() // (longest * group * dtype.itemsize)
        self._step = min(max(16, room), max(_length(segment.queries) for segment in segments))
        self._scores = torch.empty(self._step * group * longest, dtype=dtype)
        self._causal = _bias(torch.ones(self._step, self._step, dtype=torch.bool).tril(), group, dtype)
        self._segments = [(segment, list(self._blocks(segment))) for segment in segments]

    def attend(self, query_KQGE: Tensor, own: KeysValues, prefix: KeysValues | None, out: Attended) -> None:
        """Write what the segments' queries read."""
        for block in self._placed(own, prefix):
            rows = _length(block.queries) * self._group
            scores = self._scores[: rows * block.columns].view(rows, block.columns)
            own_scores = scores[:, block.columns - block.bias.shape[1] :]
            for head in range(len(query_KQGE)):
                torch.mm(
                    query_KQGE[head, block.queries].view(rows, -1), self._keys[head, : block.columns].t(), out=scores
                )
                own_scores.add_(block.bias)
                scores.exp2_()
                torch.sum(scores, -1, out=out.sums_KQG[head, block.queries].view(rows))
                torch.mm(
                    scores, self._values[head, : block.columns], out=out.values_KQGE[head, block.queries].view(rows, -1)
                )

    def attend_carefully(self, query_KQGE: Tensor, own: KeysValues, prefix: KeysValues | None, out: Attended) -> None:
        """In float32, each row's maximum subtracted: scores of any size."""
        for block in self._placed(own, prefix):
            for head in range(len(query_KQGE)):
                query = query_KQGE[head, block.queries].flatten(0, 1).float()
                scores = query @ self._keys[head, : block.columns].t().float()
                scores[:, block.columns - block.bias.shape[1] :] += block.bias
                weights = torch.exp2(scores - scores.amax(-1, keepdim=True))
                out.sums_KQG[head, block.queries] = weights.sum(-1).view(-1, self._group).to(query_KQGE.dtype)
                weighted = weights @ self._values[head, : block.columns].float()
                out.values_KQGE[head, block.queries] = weighted.view(-1, self._group, weighted.shape[1]).to(
                    query_KQGE.dtype
                )

    def _placed(self, own: KeysValues, prefix: KeysValues | None) -> Iterator[_Block]:
        """The blocks of each segment, its keys and values behind the prefix's."""
        if prefix is not None:
            self._keys[:, : self._prefix] = prefix.keys
            self._values[:, : self._prefix] = prefix.values
        for segment, blocks in self._segments:
            end = self._prefix + _length(segment.tokens)
            self._keys[:, self._prefix : end] = own.keys[:, segment.tokens]
            self._values[:, self._prefix : end] = own.values[:, segment.tokens]
            yield from blocks

    def _blocks(self, segment: Segment) -> Iterator[_Block]:
        queries = _length(segment.queries)
        pieces = -(-queries // self._step)
        bias = None if segment.visible is None else _bias(segment.visible, self._group, self._causal.dtype)
        for piece in range(pieces):
            start, stop = queries * piece // pieces, queries * (piece + 1) // pieces
            rows = (stop - start) * self._group
            where = slice(segment.queries.start + start, segment.queries.start + stop)
            if bias is None:
                yield _Block(where, self._prefix + stop, self._causal[:rows, : stop - start])
            else:
                columns = self._prefix + _length(segment.tokens)
                yield _Block(where, columns, bias[start * self._group : stop * self._group])


def _is_short(segment: Segment) -> bool:
    """Whether it may be part of a rectangle."""
    return segment.visible is None and segment.queries == segment.tokens and _length(segment.tokens) <= LONGEST_SEGMENT


def _merged(segments: Sequence[Segment]) -> list[Segment]:
    """Short causal neighbours as one segment, in which each sees its own: fewer, larger products."""
    groups: list[list[Segment]] = []
    for segment in segments:
        last = groups[-1] if groups else []
        if last and _joins(last, segment):
            last.append(segment)
        else:
            groups.append([segment])
    return [group[0] if len(group) == 1 else _joint(group) for group in groups]


def _joins(group: Sequence[Segment], segment: Segment) -> bool:
    causal = all(one.visible is None and one.queries == one.tokens for one in (*group, segment))
    follows = group[-1].tokens.stop == segment.tokens.start
    return causal and follows and segment.tokens.stop - group[0].tokens.start <= _MERGED_TOKENS


def _joint(group: Sequence[Segment]) -> Segment:
    tokens = slice(group[0].tokens.start, group[-1].tokens.stop)
    owner = torch.tensor([i for i, segment in enumerate(group) for _ in range(_length(segment.tokens))])
    same = owner[:, None] == owner
    return Segment(tokens, tokens, same.tril())


def _bias(visible_QT: Tensor, group: int, dtype: torch.dtype) -> Tensor:
    """0 where a row of scores may look and minus infinity elsewhere; each query has ``group`` rows."""
    return torch.zeros(visible_QT.shape, dtype=dtype).masked_fill(~visible_QT, -torch.inf).repeat_interleave(group, 0)


def _length(span: slice) -> int:
    length: int = span.stop - span.start
    return length
