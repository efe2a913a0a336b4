"""Attention of many short segments at once, those of like length as the rows of one batched product.

A product for each short segment is mostly the cost of calling it, and one product for several computes what none of
them may see; a batched product of segments padded to one length does neither.

Legend: as ``attention``; S segments of a rectangle, W tokens of the longest of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from corral.models.packed.attention import Attended, KeysValues

LONGEST_SEGMENT: Final = 128
LONGEST_PREFIX: Final = 128
_SEGMENTS: Final = 4  # segments of a rectangle of unequal ones are a multiple of it
_TOKENS: Final = 8  # and so are tokens of this; every shape is compiled once, see ``matrices``
_PADDING: Final = 1.25  # times the shortest segment of a rectangle, at the most


class AttentionSizes(NamedTuple):
    """What stays the same over all layers of a pass.

    Attributes:
        prefix: P.
        key_heads: K.
        group: G.
        head_size: E.
        dtype: of queries, keys and values.
    """

    prefix: int
    key_heads: int
    group: int
    head_size: int
    dtype: torch.dtype


class Rectangle:
    """Causal segments that are worked on together, in buffers that serve every layer.

    Args:
        segments: packed tokens of each, in any order.
        sizes: of the attention.
        room: bytes of scores to work on at a time, unless one head's are more.
    """

    def __init__(self, segments: Sequence[slice], sizes: AttentionSizes, *, room: int) -> None:
        prefix, key_heads, group, head_size, dtype = sizes
        lengths = [segment.stop - segment.start for segment in segments]
        self._run = _run(segments, lengths)
        count, width = len(segments), max(lengths)
        if self._run is None:
            count = _up(count, _SEGMENTS)
        if self._run is None or count == 1:
            width = _up(width, _TOKENS)
        columns = _up(prefix + width, _TOKENS)
        self._prefix = prefix
        self._rows = width * group
        self._tokens = torch.cat([torch.arange(segment.start, segment.stop) for segment in segments])
        self._cells = torch.cat([torch.arange(length) + i * width for i, length in enumerate(lengths)])
        self._own_cells = self._cells % width + self._cells // width * columns + prefix
        self._filled = self._run is not None and width == max(lengths)
        # Cells that no token fills are multiplied too and must be numbers.
        self._keys = torch.zeros(key_heads, count, columns, head_size, dtype=dtype)
        self._values = torch.zeros_like(self._keys)
        self._first = (self._keys[:, :, :prefix], self._values[:, :, :prefix])
        heads = key_heads if self._run is not None else 1
        self._queries = torch.zeros(heads, count * width, group, head_size, dtype=dtype)
        self._read = torch.empty_like(self._queries)
        self._sums = torch.empty(heads, count * width, group, dtype=dtype)
        bytes_a_head = count * self._rows * columns * dtype.itemsize
        self._together = key_heads if bytes_a_head * key_heads <= room else 1
        self._scores = torch.empty(self._together * count, self._rows, columns, dtype=dtype)
        hidden = torch.ones(width, columns, dtype=torch.bool).triu(prefix + 1)
        self._bias = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, -torch.inf).repeat_interleave(group, 0)

    def attend(self, query_KQGE: Tensor, own: KeysValues, prefix: KeysValues | None, out: Attended) -> None:
        """Write what the segments' queries read.

        Args:
            query_KQGE: contiguous.
            own: of the packed tokens, (K, N, E).
            prefix: of P tokens; ``None`` for none.
            out: takes the segments' rows.
        """
        if prefix is not None:
            self._first[0].copy_(prefix.keys[:, None])
            self._first[1].copy_(prefix.values[:, None])
        self._place(self._keys, own.keys)
        self._place(self._values, own.values)
        if self._run is None:
            for head in range(len(query_KQGE)):
                self._queries[0, self._cells] = query_KQGE[head][self._tokens]
                self._product(slice(head, head + 1), self._queries, self._read, self._sums)
                out.values_KQGE[head][self._tokens] = self._read[0, self._cells]
                out.sums_KQG[head][self._tokens] = self._sums[0, self._cells]
            return
        queries = query_KQGE[:, self._run]
        values, sums = out.values_KQGE[:, self._run], out.sums_KQG[:, self._run]
        if self._filled:
            self._products(queries, values, sums)
            return
        tokens = queries.shape[1]
        self._queries[:, :tokens] = queries
        self._products(self._queries, self._read, self._sums)
        values.copy_(self._read[:, :tokens])
        sums.copy_(self._sums[:, :tokens])

    def _products(self, queries: Tensor, read: Tensor, sums: Tensor) -> None:
        """Of every head; of all at once where there is room and the rows of one follow those of another."""
        step = self._together if queries.is_contiguous() and read.is_contiguous() and sums.is_contiguous() else 1
        for start in range(0, len(queries), step):
            heads = slice(start, start + step)
            self._product(heads, queries[heads], read[heads], sums[heads])

    def _product(self, heads: slice, queries: Tensor, read: Tensor, sums: Tensor) -> None:
        keys, values = self._keys[heads].flatten(0, 1), self._values[heads].flatten(0, 1)
        scores = self._scores[: len(keys)]
        torch.baddbmm(self._bias, queries.view(len(keys), self._rows, -1), keys.transpose(1, 2), out=scores)
        scores.exp2_()
        torch.sum(scores, -1, out=sums.view(len(keys), self._rows))
        torch.bmm(scores, values, out=read.view(len(keys), self._rows, -1))

    def _place(self, buffer: Tensor, own_KNE: Tensor) -> None:
        if self._run is None:
            buffer.flatten(1, 2)[:, self._own_cells] = own_KNE[:, self._tokens]
        else:
            heads, count, _, size = buffer.shape
            own = own_KNE[:, self._run].view(heads, count, -1, size)
            buffer[:, :, self._prefix : self._prefix + own.shape[2]] = own


def alike(segments: Sequence[slice], *, room: int, bytes_a_cell: int, prefix: int) -> Iterator[list[slice]]:
    """Segments of like length together, as many as the room for scores allows; equal ones stay in their order.

    Args:
        segments: packed tokens of each.
        room: bytes of one head's scores, unless those of one segment are more.
        bytes_a_cell: of the scores of one token for another.
        prefix: tokens that every token sees beside those of its segment.
    """
    group: list[slice] = []
    for segment in sorted(segments, key=_length):
        width = _length(segment)
        scores = (len(group) + 1) * width * (prefix + width) * bytes_a_cell
        if group and (width > _PADDING * _length(group[0]) or scores > room):
            yield group
            group = []
        group.append(segment)
    if group:
        yield group


def _run(segments: Sequence[slice], lengths: Sequence[int]) -> slice | None:
    """The tokens of all segments, where these are as long as each other and follow each other."""
    follows = all(first.stop == second.start for first, second in pairwise(segments))
    return slice(segments[0].start, segments[-1].stop) if follows and len(set(lengths)) == 1 else None


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _length(span: slice) -> int:
    length: int = span.stop - span.start
    return length
