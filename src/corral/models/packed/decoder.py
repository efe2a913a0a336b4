"""The forward pass of a plain Llama over packed tokens behind a shared prefix.

Linear layers see real tokens only. Of the highest layer's output only the tokens that are read are computed, and of a
prefix nothing beyond the highest layer's keys and values.

Sources as for ``models/llama``. In bfloat16 the numbers differ from transformers', whose every step rounds: here the
residual stream, norms, rotary embedding and what follows the highest layer's attention are float32, and what goes into
any other matrix product is rounded once.

Legend: N packed tokens, R tokens that are read, D hidden size, K key heads, G query heads that share
one, E head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from corral.models.llama_shape import LlamaShape
from corral.models.packed.attention import Attended, KeysValues, PrefixAttention, Segment
from corral.models.packed.matrices import Factor, Rows
from corral.models.packed.rectangles import AttentionSizes
from corral.models.packed.weights import LayerWeights, ModelWeights, StackWeights

CHUNK_TOKENS: Final = 512
"""Tokens that a thread takes through linear layers at a time; measured like ``SCORE_BYTES``."""

_TABLE_STEP: Final = 512  # positions of a rotary table are a multiple of it, so that few tables are made


@dataclass(frozen=True, slots=True)
class Packing:
    """Tokens of several sequences behind one prefix.

    Attributes:
        ids: (N,) token ids.
        positions: (N,) counted from the beginning of the prefix.
        segments: over all tokens.
        reads: (R,) indices of the tokens whose hidden states are wanted.
        read_segments: over the tokens that are read.
    """

    ids: Tensor
    positions: Tensor
    segments: Sequence[Segment]
    reads: Tensor
    read_segments: Sequence[Segment]


@dataclass(frozen=True, slots=True)
class Beginning:
    """All that a decoder stack computes for the tokens that sequences begin with.

    Attributes:
        states: keys and values of every layer, (K, P, E).
        hidden_PD: the residual stream after the last layer, float32.
    """

    states: tuple[KeysValues, ...]
    hidden_PD: Tensor


def beginning_of(weights: StackWeights, ids: Sequence[int]) -> Beginning:
    """What the stack computes for token ids, none before them."""
    hidden_PD = weights.enter(torch.tensor(ids))
    work = _LayerWork(weights, torch.arange(len(ids)))
    attend = _attention([Segment(slice(0, len(ids)), slice(0, len(ids)))], 0, weights)
    states = []
    for layer in weights.layers:
        query, own = work.project(hidden_PD, layer)
        states.append(own)
        work.finish(hidden_PD, attend(query, own, None), layer)
    return Beginning(tuple(states), weights.leave(hidden_PD))


def token_states(
    weights: StackWeights,
    ids_N: Tensor,
    positions_N: Tensor,
    segments: Sequence[Segment],
    *,
    shared: int = 0,
    prefix: Sequence[KeysValues] = (),
) -> Tensor:
    """The residual stream (N, D), in float32, of every token after the last layer.

    Args:
        weights: of the layers.
        ids_N: token ids.
        positions_N: of each token in its sequence.
        segments: over the tokens; where some are shared, over those after them.
        shared: so many tokens at the beginning are the prefix of every segment.
        prefix: keys and values of each layer for a prefix that is known already; then none may be shared.
    """
    if shared:
        causal = torch.ones(shared, shared, dtype=torch.bool).tril()
        segments = [Segment(slice(0, shared), slice(0, 0), causal), *segments]
    hidden_ND = weights.enter(ids_N)
    work = _LayerWork(weights, positions_N)
    attend = _attention(segments, shared or _tokens(prefix), weights)
    for i, layer in enumerate(weights.layers):
        query, own = work.project(hidden_ND, layer)
        work.finish(hidden_ND, attend(query, own, prefix[i] if prefix else own.first(shared)), layer)
    return weights.leave(hidden_ND)


def read_states(weights: ModelWeights, packing: Packing, prefix: Sequence[KeysValues]) -> Tensor:
    """Normed hidden states (R, D), in float32, of the tokens that are read.

    Args:
        weights: of the model.
        packing: what is computed.
        prefix: of each layer; empty for no prefix.
    """
    hidden_ND = weights.enter(packing.ids)
    work = _LayerWork(weights, packing.positions)
    tokens = _tokens(prefix)
    attend = _attention(packing.segments, tokens, weights)
    for i, layer in enumerate(weights.layers[:-1]):
        query, own = work.project(hidden_ND, layer)
        work.finish(hidden_ND, attend(query, own, prefix[i] if prefix else None), layer)
    query, own = work.project(hidden_ND, weights.layers[-1])
    attend = _attention(packing.read_segments, tokens, weights)
    attended = attend(query[:, packing.reads], own, prefix[-1] if prefix else None)
    read_RD = hidden_ND[packing.reads]
    work.finish(read_RD, attended, weights.layers[-1])
    return F.rms_norm(read_RD, (weights.shape.hidden_size,), weights.norm.float(), weights.shape.norm_epsilon)


def prefix_states(
    weights: StackWeights, ids: Sequence[int], beginning: Sequence[KeysValues] = ()
) -> tuple[KeysValues, ...]:
    """Keys and values of every layer for token ids, ``beginning`` being those of the first tokens."""
    known = _tokens(beginning)
    tokens = slice(0, len(ids) - known)
    hidden_ND = weights.enter(torch.tensor(ids[known:]))
    work = _LayerWork(weights, torch.arange(known, len(ids)))
    attend = _attention([Segment(tokens, tokens)], known, weights)
    states = []
    for i, layer in enumerate(weights.layers):
        query, own = work.project(hidden_ND, layer)
        states.append(_joined(beginning[i], own) if beginning else own)
        if i < len(weights.layers) - 1:
            work.finish(hidden_ND, attend(query, own, beginning[i] if beginning else None), layer)
    return tuple(states)


def _tokens(prefix: Sequence[KeysValues]) -> int:
    return prefix[0].keys.shape[1] if prefix else 0


def _attention(segments: Sequence[Segment], prefix: int, weights: StackWeights) -> PrefixAttention:
    shape = weights.shape
    sizes = AttentionSizes(prefix, shape.key_heads, shape.heads // shape.key_heads, shape.head_size, weights.dtype)
    return PrefixAttention(segments, sizes)


class _Buffers(NamedTuple):
    """Room for the tokens of a chunk, which stays in the cache over all layers.

    Attributes:
        normed_ND: of the model's dtype.
        wide_ND: float32, like those below.
        mixed_NKGE: what attention reads.
        halves_NT2E: the two halves of the T heads that the rotary embedding turns.
        turned_NT2E: the same, turned.
    """

    normed_ND: Tensor
    wide_ND: Tensor
    mixed_NKGE: Tensor
    halves_NT2E: Tensor
    turned_NT2E: Tensor


class _Chunk:
    """Some of the tokens, buffers for them, and the views of these that every layer needs.

    Args:
        span: which tokens; ``None`` for all.
        buffers: as many tokens.
    """

    def __init__(self, span: slice | None, buffers: _Buffers) -> None:
        self._span = span
        self.normed_ND, self.wide_ND, self.mixed_NKGE, self.halves_NT2E, self.turned_NT2E = buffers
        self.mixed_ND = self.mixed_NKGE.flatten(1)
        self.first_NTE, self.second_NTE = self.halves_NT2E.unbind(2)
        self.turned_first_NTE, self.turned_second_NTE = self.turned_NT2E.unbind(2)
        key_heads, group = self.mixed_NKGE.shape[1:3]
        turned_NTE = self.turned_NT2E.flatten(-2)
        self.queries_NKGE = turned_NTE[:, : key_heads * group].view(self.mixed_NKGE.shape)
        self.keys_NKE = turned_NTE[:, key_heads * group :]

    def of(self, rows_Nx: Tensor) -> Tensor:
        """The chunk's part of what belongs to all tokens."""
        return rows_Nx if self._span is None else rows_Nx[self._span]


class _LayerWork:
    """The work of a layer on either side of attention, a chunk of tokens at a time in buffers that stay in the cache.

    With few tokens a call costs as much as what it computes, so nothing is made for each layer that can be made once.

    Args:
        weights: of the model.
        positions_N: of the tokens.
    """

    def __init__(self, weights: StackWeights, positions_N: Tensor) -> None:
        shape = weights.shape
        self._shape = shape
        self._tokens = len(positions_N)
        self._dtype = weights.dtype
        self._group = shape.heads // shape.key_heads
        pieces = -(-len(positions_N) // (CHUNK_TOKENS * torch.get_num_threads()))
        self._step = -(-len(positions_N) // pieces)  # even ones: a product of few rows is slower for each of them
        halves = (shape.heads + shape.key_heads, 2, shape.head_size // 2)
        self._buffers = _Buffers(
            torch.empty(self._step, shape.hidden_size, dtype=self._dtype),
            torch.empty(self._step, shape.hidden_size),
            torch.empty(self._step, shape.key_heads, self._group, shape.head_size),
            torch.empty(self._step, *halves),
            torch.empty(self._step, *halves),
        )
        self._all = self._chunks(len(positions_N))
        cos_N11E, sin_N1E = _rotary(positions_N, shape)
        self._tables = [(chunk.of(cos_N11E), chunk.of(sin_N1E)) for chunk in self._all]
        self._floor = torch.tensor(math.sqrt(shape.norm_epsilon))

    def project(self, hidden_ND: Tensor, layer: LayerWeights) -> tuple[Tensor, KeysValues]:
        """Queries (K, N, G, E), and keys and values (K, N, E), of every token."""
        shape, tokens = self._shape, len(hidden_ND)
        turned_heads = shape.heads + shape.key_heads
        query_KNGE = torch.empty(shape.key_heads, tokens, self._group, shape.head_size, dtype=self._dtype)
        key_KNE, value_KNE = torch.empty(2, shape.key_heads, tokens, shape.head_size, dtype=self._dtype)
        query_NKGE, key_NKE, value_NKE = (each.transpose(0, 1) for each in (query_KNGE, key_KNE, value_KNE))
        key_scale = math.log2(math.e) / math.sqrt(shape.head_size)  # scores are logarithms to base 2
        for chunk, tables in zip(self._all, self._tables, strict=True):
            rows = self._normed(chunk.of(hidden_ND), layer.attention_norm, layer.query_key_value, chunk)
            product_NHE = layer.query_key_value(rows).view(-1, turned_heads + shape.key_heads, shape.head_size)
            _turn(product_NHE[:, :turned_heads], tables, chunk)
            chunk.of(query_NKGE).copy_(chunk.queries_NKGE)
            torch.mul(chunk.keys_NKE, key_scale, out=chunk.of(key_NKE))
            chunk.of(value_NKE).copy_(product_NHE[:, turned_heads:])
        return query_KNGE, KeysValues(key_KNE, value_KNE)

    def finish(self, hidden_ND: Tensor, attended: Attended, layer: LayerWeights) -> None:
        """Add what attention and feed-forward give to the hidden states, in place."""
        values_NKGE, sums_NKG = attended.values_KQGE.transpose(0, 1), attended.sums_KQG.transpose(0, 1)
        for chunk in self._all if len(hidden_ND) == self._tokens else self._chunks(len(hidden_ND)):
            states = chunk.of(hidden_ND)
            chunk.mixed_NKGE.copy_(chunk.of(values_NKGE)).div_(chunk.of(sums_NKG)[..., None])
            layer.output.add_to(states, layer.output.prepare(chunk.mixed_ND, chunk.normed_ND), chunk.wide_ND)
            inner = layer.gated(self._normed(states, layer.feed_forward_norm, layer.gated, chunk))
            layer.down.add_to(states, layer.down.prepare(inner, inner), chunk.wide_ND)

    def _normed(self, hidden_ND: Tensor, weight_D: Tensor | None, factor: Factor, chunk: _Chunk) -> Rows:
        """The normed states, as ``factor`` multiplies them."""
        length_N1 = torch.linalg.vector_norm(hidden_ND, dim=-1, keepdim=True)
        root_N1 = torch.hypot(length_N1.mul_(hidden_ND.shape[1] ** -0.5), self._floor)
        normed_ND = torch.div(hidden_ND, root_N1, out=chunk.wide_ND)
        return factor.prepare(normed_ND if weight_D is None else normed_ND.mul_(weight_D), chunk.normed_ND)

    def _chunks(self, tokens: int) -> list[_Chunk]:
        """The tokens in chunks of what there is room for."""
        if tokens == self._step:
            return [_Chunk(None, self._buffers)]
        spans = [slice(start, min(start + self._step, tokens)) for start in range(0, tokens, self._step)]
        return [_Chunk(span, _Buffers(*(each[: span.stop - span.start] for each in self._buffers))) for span in spans]


def _turn(heads_NTE: Tensor, tables: tuple[Tensor, Tensor], chunk: _Chunk) -> None:
    """Rotary embedding in float32, into the chunk's room for it."""
    cos, sin = tables
    chunk.halves_NT2E.copy_(heads_NTE.view(chunk.halves_NT2E.shape))
    torch.mul(chunk.halves_NT2E, cos, out=chunk.turned_NT2E)
    chunk.turned_first_NTE.addcmul_(chunk.second_NTE, sin, value=-1)
    chunk.turned_second_NTE.addcmul_(chunk.first_NTE, sin)


def _rotary(positions_N: Tensor, shape: LlamaShape) -> tuple[Tensor, Tensor]:
    length = -(-(int(positions_N.max()) + 1) // _TABLE_STEP) * _TABLE_STEP
    cos, sin = _rotary_tables(shape.head_size, shape.rope_theta, length)
    return cos[positions_N][:, None, None], sin[positions_N][:, None]


@lru_cache(maxsize=4)
def _rotary_tables(head_size: int, theta: float, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (positions, head size / 2)."""
    exponents = torch.arange(0, head_size, 2).float() / head_size
    angles = torch.arange(length)[:, None].float() * (1.0 / theta**exponents)
    return angles.cos(), angles.sin()


def _joined(first: KeysValues, second: KeysValues) -> KeysValues:
    return KeysValues(torch.cat([first.keys, second.keys], dim=1), torch.cat([first.values, second.values], dim=1))
