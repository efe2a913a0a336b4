"""The forward pass of a plain Llama over packed tokens behind a shared prefix.

Linear layers see real tokens only. The highest layer computes queries, attention and feed-forward for the tokens that
are read and keys and values for nothing (a prefix needs those of every layer, but nothing else of the highest).

Sources as for ``models/llama``. In bfloat16 the numbers differ from transformers', whose every step rounds: here the
residual stream, norms and rotary embedding are float32, and what goes into a matrix product is rounded once.

Legend: N packed tokens, R tokens that are read, P prefix tokens, D hidden size, K key heads, G query heads that share
one, E head size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from corral.models.llama import LlamaShape
from corral.models.packed.attention import Attended, KeysValues, PrefixAttention, Segment
from corral.models.packed.weights import DecoderWeights, LayerWeights

CHUNK_TOKENS: Final = 256
"""Tokens that a thread takes through linear layers at a time; measured like ``SCORE_BYTES``."""

_SCALE: Final = math.log2(math.e)
"""Scores are logarithms to base 2."""


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


def read_states(weights: DecoderWeights, packing: Packing, prefix: Sequence[KeysValues]) -> Tensor:
    """Normed hidden states (R, D), in float32, of the tokens that are read.

    Args:
        weights: of the model.
        packing: what is computed.
        prefix: of each layer; empty for no prefix.
    """
    shape = weights.shape
    layers = _Layers(weights, packing.positions)
    attend = _attention(packing.segments, prefix, weights)
    hidden_ND = F.embedding(packing.ids, weights.embedding).float()
    for i, layer in enumerate(weights.layers[:-1]):
        query, own = layers.project(hidden_ND, layer)
        layers.finish(hidden_ND, attend(query, own, prefix[i] if prefix else None), layer)
    query, own = layers.project(hidden_ND, weights.layers[-1])
    attend = _attention(packing.read_segments, prefix, weights)
    mixed = attend(query[:, packing.reads], own, prefix[-1] if prefix else None)
    read_RD = hidden_ND[packing.reads]
    layers.finish(read_RD, mixed, weights.layers[-1])
    return F.rms_norm(read_RD, (shape.hidden_size,), weights.norm.float(), shape.norm_epsilon)


def prefix_states(
    weights: DecoderWeights, ids: Sequence[int], beginning: Sequence[KeysValues] = ()
) -> tuple[KeysValues, ...]:
    """Keys and values of every layer for token ids, ``beginning`` being those of the first tokens."""
    shape = weights.shape
    known = beginning[0].keys.shape[1] if beginning else 0
    fresh = len(ids) - known
    layers = _Layers(weights, torch.arange(known, len(ids)))
    attend = _attention([Segment(slice(0, fresh), slice(0, fresh))], beginning, weights)
    hidden_ND = F.embedding(torch.tensor(ids[known:]), weights.embedding).float()
    states = []
    for i, layer in enumerate(weights.layers):
        query, own = layers.project(hidden_ND, layer)
        if i < len(weights.layers) - 1:
            layers.finish(hidden_ND, attend(query, own, beginning[i] if beginning else None), layer)
        states.append(_joined(beginning[i], own) if beginning else own)
    return tuple(states)


def _attention(segments: Sequence[Segment], prefix: Sequence[KeysValues], weights: DecoderWeights) -> PrefixAttention:
    shape = weights.shape
    return PrefixAttention(
        segments,
        prefix=prefix[0].keys.shape[1] if prefix else 0,
        key_heads=shape.key_heads,
        group=shape.heads // shape.key_heads,
        head_size=shape.head_size,
        dtype=weights.embedding.dtype,
    )


class _Layers:
    """The work of a layer on either side of attention, a chunk of tokens at a time in buffers that stay in the cache.

    Args:
        weights: of the model.
        positions_N: of the tokens.
    """

    def __init__(self, weights: DecoderWeights, positions_N: Tensor) -> None:
        shape = weights.shape
        self._shape = shape
        self._dtype = weights.embedding.dtype
        self._tables = _rotary(positions_N, shape)
        self._chunk = min(len(positions_N), CHUNK_TOKENS * torch.get_num_threads())
        inner = weights.layers[0].down.shape[1]
        turned = shape.heads + shape.key_heads
        self._normed = self._buffer(shape.hidden_size)
        self._added = torch.empty_like(self._normed)
        self._scaled = self._buffer(shape.hidden_size, dtype=torch.float32)
        self._mixed = self._buffer(shape.heads * shape.head_size)
        self._heads = self._buffer(turned + shape.key_heads, shape.head_size)
        self._wide = self._buffer(turned, 2, shape.head_size // 2, dtype=torch.float32)
        self._turned = torch.empty_like(self._wide)
        self._gate_up = self._buffer(2 * inner)

    def project(self, hidden_ND: Tensor, layer: LayerWeights) -> tuple[Tensor, KeysValues]:
        """Queries (K, N, G, E), and keys and values (K, N, E), of every token."""
        shape = self._shape
        key_heads, group = shape.key_heads, shape.heads // shape.key_heads
        query_KNGE = torch.empty(key_heads, len(hidden_ND), group, shape.head_size, dtype=self._dtype)
        key_KNE, value_KNE = torch.empty(2, key_heads, len(hidden_ND), shape.head_size, dtype=self._dtype)
        for span in self._chunks(len(hidden_ND)):
            chunk = hidden_ND[span]
            heads = self._heads[: len(chunk)]
            torch.mm(self._norm(chunk, layer.attention_norm), layer.query_key_value.t(), out=heads.flatten(1))
            turned = self._turn(heads[:, : shape.heads + key_heads], span)
            query_KNGE[:, span].transpose(0, 1).copy_(turned[:, : shape.heads].unflatten(1, (key_heads, group)))
            torch.mul(
                turned[:, shape.heads :], _SCALE / math.sqrt(shape.head_size), out=key_KNE[:, span].transpose(0, 1)
            )
            value_KNE[:, span].transpose(0, 1).copy_(heads[:, shape.heads + key_heads :])
        return query_KNGE, KeysValues(key_KNE, value_KNE)

    def finish(self, hidden_ND: Tensor, attended: Attended, layer: LayerWeights) -> None:
        """Add what attention and feed-forward give to the hidden states, in place."""
        for span in self._chunks(len(hidden_ND)):
            chunk = hidden_ND[span]
            added = self._added[: len(chunk)]
            chunk.add_(torch.mm(self._mixture(attended, span), layer.output.t(), out=added))
            gate_up = self._gate_up[: len(chunk)]
            torch.mm(self._norm(chunk, layer.feed_forward_norm), layer.gate_up.t(), out=gate_up)
            gate, up = gate_up.chunk(2, dim=1)
            chunk.add_(torch.mm(F.silu(gate, inplace=True).mul_(up), layer.down.t(), out=added))

    def _mixture(self, attended: Attended, span: slice) -> Tensor:
        """Attention's weighted means (tokens, H * E)."""
        weighted = attended.values_KQGE[:, span].transpose(0, 1)
        wide = self._wide.flatten()[: weighted.numel()].view(weighted.shape).copy_(weighted)
        wide.div_(attended.sums_KQG[:, span].transpose(0, 1)[..., None])
        return self._mixed[: len(wide)].copy_(wide.flatten(1))

    def _norm(self, hidden_ND: Tensor, weight_D: Tensor) -> Tensor:
        length_N1 = torch.linalg.vector_norm(hidden_ND, dim=-1, keepdim=True)
        scale_N1 = length_N1.square_().div_(hidden_ND.shape[1]).add_(self._shape.norm_epsilon).rsqrt_()
        wide_ND = torch.mul(hidden_ND, scale_N1, out=self._scaled[: len(hidden_ND)])
        return self._normed[: len(hidden_ND)].copy_(wide_ND.mul_(weight_D.float()))

    def _turn(self, heads_NHE: Tensor, span: slice) -> Tensor:
        """Rotary embedding in float32."""
        wide = self._wide[: len(heads_NHE)].copy_(heads_NHE.unflatten(-1, (2, -1)))
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
    exponents = torch.arange(0, shape.head_size, 2).float() / shape.head_size
    angles = positions_N[:, None].float() * (1.0 / shape.rope_theta**exponents)
    return angles.cos()[:, None, None], angles.sin()[:, None]


def _joined(first: KeysValues, second: KeysValues) -> KeysValues:
    return KeysValues(torch.cat([first.keys, second.keys], dim=1), torch.cat([first.values, second.values], dim=1))
