"""The forward pass of a plain Llama over packed tokens behind a shared prefix.

Linear layers see real tokens only. Of the highest layer's output only the tokens that are read are computed, and of a
prefix nothing beyond the highest layer's keys and values.

Sources as for ``models/llama``. In bfloat16 the numbers differ from transformers', whose every step rounds: here the
residual stream, norms and rotary embedding are float32, and what goes into a matrix product is rounded once.

Legend: N packed tokens, R tokens that are read, D hidden size, K key heads, G query heads that share
one, E head size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

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
    hidden_PD = F.embedding(torch.tensor(ids), weights.embedding).float()
    work = _LayerWork(weights, torch.arange(len(ids)))
    attend = _attention([Segment(slice(0, len(ids)), slice(0, len(ids)))], 0, weights)
    states = []
    for layer in weights.layers:
        query, own = work.project(hidden_PD, layer)
        states.append(own)
        work.finish(hidden_PD, attend(query, own, None), layer)
    return Beginning(tuple(states), hidden_PD)


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
    hidden_ND = F.embedding(ids_N, weights.embedding).float()
    work = _LayerWork(weights, positions_N)
    attend = _attention(segments, shared or _tokens(prefix), weights)
    for i, layer in enumerate(weights.layers):
        query, own = work.project(hidden_ND, layer)
        work.finish(hidden_ND, attend(query, own, prefix[i] if prefix else own.first(shared)), layer)
    return hidden_ND


def read_states(weights: ModelWeights, packing: Packing, prefix: Sequence[KeysValues]) -> Tensor:
    """Normed hidden states (R, D), in float32, of the tokens that are read.

    Args:
        weights: of the model.
        packing: what is computed.
        prefix: of each layer; empty for no prefix.
    """
    hidden_ND = F.embedding(packing.ids, weights.embedding).float()
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
    hidden_ND = F.embedding(torch.tensor(ids[known:]), weights.embedding).float()
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


class _LayerWork:
    """The work of a layer on either side of attention, a chunk of tokens at a time in buffers that stay in the cache.

    Args:
        weights: of the model.
        positions_N: of the tokens.
    """

    def __init__(self, weights: StackWeights, positions_N: Tensor) -> None:
        shape = weights.shape
        self._shape = shape
        self._dtype = weights.dtype
        self._tables = _rotary(positions_N, shape)
        pieces = -(-len(positions_N) // (CHUNK_TOKENS * torch.get_num_threads()))
        self._chunk = -(-len(positions_N) // pieces)  # even ones: a product of few rows is slower for each of them
        turned = shape.heads + shape.key_heads
        self._normed = self._buffer(shape.hidden_size)
        self._scaled = self._buffer(shape.hidden_size, dtype=torch.float32)
        self._mixed = self._buffer(shape.heads * shape.head_size)
        self._wide = self._buffer(turned, 2, shape.head_size // 2, dtype=torch.float32)
        self._turned = torch.empty_like(self._wide)

    def project(self, hidden_ND: Tensor, layer: LayerWeights) -> tuple[Tensor, KeysValues]:
        """Queries (K, N, G, E), and keys and values (K, N, E), of every token."""
        shape = self._shape
        key_heads, group, size = shape.key_heads, shape.heads // shape.key_heads, shape.head_size
        query_KNGE = torch.empty(key_heads, len(hidden_ND), group, size, dtype=self._dtype)
        key_KNE, value_KNE = torch.empty(2, key_heads, len(hidden_ND), size, dtype=self._dtype)
        key_scale = math.log2(math.e) / math.sqrt(size)  # scores are logarithms to base 2
        for span in self._chunks(len(hidden_ND)):
            chunk = hidden_ND[span]
            product = layer.query_key_value(self._normed_rows(chunk, layer.attention_norm, layer.query_key_value))
            heads = product.view(len(chunk), -1, size)
            turned = self._turn(heads[:, : shape.heads + key_heads], span)
            query_KNGE[:, span].transpose(0, 1).copy_(turned[:, : shape.heads].view(-1, key_heads, group, size))
            torch.mul(turned[:, shape.heads :], key_scale, out=key_KNE[:, span].transpose(0, 1))
            value_KNE[:, span].transpose(0, 1).copy_(heads[:, shape.heads + key_heads :])
        return query_KNGE, KeysValues(key_KNE, value_KNE)

    def finish(self, hidden_ND: Tensor, attended: Attended, layer: LayerWeights) -> None:
        """Add what attention and feed-forward give to the hidden states, in place."""
        for span in self._chunks(len(hidden_ND)):
            chunk = hidden_ND[span]
            self._add(chunk, layer.output(layer.output.prepare(self._mixture(attended, span), self._mixed)))
            inner = layer.gate.gated(layer.up, self._normed_rows(chunk, layer.feed_forward_norm, layer.gate))
            self._add(chunk, layer.down(layer.down.prepare(inner, inner)))

    def _add(self, hidden_ND: Tensor, added_ND: Tensor) -> None:
        if added_ND.dtype != hidden_ND.dtype:
            added_ND = self._scaled[: len(hidden_ND)].copy_(added_ND)
        hidden_ND.add_(added_ND)

    def _mixture(self, attended: Attended, span: slice) -> Tensor:
        """Attention's weighted means (tokens, H * E), in float32."""
        weighted = attended.values_KQGE[:, span].transpose(0, 1)
        wide = self._wide.flatten()[: weighted.numel()].view(weighted.shape).copy_(weighted)
        wide.div_(attended.sums_KQG[:, span].transpose(0, 1)[..., None])
        return wide.flatten(1)

    def _normed_rows(self, hidden_ND: Tensor, weight_D: Tensor, factor: Factor) -> Rows:
        """The normed states, for ``factor`` and those of its kind."""
        length_N1 = torch.linalg.vector_norm(hidden_ND, dim=-1, keepdim=True)
        scale_N1 = length_N1.square_().div_(hidden_ND.shape[1]).add_(self._shape.norm_epsilon).rsqrt_()
        wide_ND = torch.mul(hidden_ND, scale_N1, out=self._scaled[: len(hidden_ND)])
        return factor.prepare(wide_ND.mul_(weight_D), self._normed)

    def _turn(self, heads_NHE: Tensor, span: slice) -> Tensor:
        """Rotary embedding in float32."""
        wide = self._wide[: len(heads_NHE)].copy_(heads_NHE.view(*heads_NHE.shape[:2], 2, -1))
        cos, sin = (table[span] for table in self._tables)
        turned = torch.mul(wide, cos, out=self._turned[: len(heads_NHE)])
        turned[:, :, 0].addcmul_(wide[:, :, 1], sin, value=-1)
        turned[:, :, 1].addcmul_(wide[:, :, 0], sin)
        return turned.flatten(-2)

    def _chunks(self, tokens: int) -> Iterator[slice]:
        for start in range(0, tokens, self._chunk):
            yield slice(start, min(start + self._chunk, tokens))

    def _buffer(self, *sizes: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(self._chunk, *sizes, dtype=dtype or self._dtype)


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
