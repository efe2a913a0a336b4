"""A Llama decoder stack for inference, in plain torch.

transformers' ``LlamaModel`` costs some three seconds to import, which a command that answers one question cannot
spend, and computes padding like text. This one imports torch alone and packs: linear layers see real tokens only. On
CPU all of it is the packed forward pass of ``models/packed``; elsewhere attention is torch's own. It has no cache, no
head and no training features; parameter names are those of ``LlamaModel``, so a state dict or a LoRA adapter of one
fits the other, and a test holds their outputs equal.

Sources: Llama (arXiv 2302.13971), RMSNorm (arXiv 1910.07467), rotary embedding (arXiv 2104.09864) in transformers'
half-split layout, grouped-query attention (arXiv 2305.13245).

Legend: B sequences, T longest length, N real tokens of the batch, D hidden size, H query heads, K key heads,
E head size.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from corral.core.errors import ConfigError, DataError, NotFoundError
from corral.core.files import read_json
from corral.models.llama_shape import LlamaShape
from corral.models.packed.attention import Segment
from corral.models.packed.decoder import Beginning, beginning_of, token_states
from corral.models.packed.int8 import int8_is_exact
from corral.models.packed.weights import StackWeights, stack_weights, weights_state

__all__ = ["DecoderOutput", "LlamaDecoder", "LlamaShape"]


class DecoderOutput(NamedTuple):
    """Hidden states (B, T, D) after the last layer (and norm, if kept); zeros on padding.

    On CPU they are float32 whatever the weights are, elsewhere of the weights' dtype.
    """

    last_hidden_state: Tensor


class _Packing(NamedTuple):
    """Which cells of the (B, T) rectangle hold tokens."""

    cells_N: Tensor
    rows: int
    columns: int

    @property
    def positions(self) -> Tensor:
        """Of each token in its sequence."""
        return self.cells_N % self.columns

    def spread(self, packed_Nx: Tensor) -> Tensor:
        """(N, ...) to (B, T, ...), zeros on padding."""
        padded = packed_Nx.new_zeros(self.rows * self.columns, *packed_Nx.shape[1:])
        padded[self.cells_N] = packed_Nx
        return padded.view(self.rows, self.columns, *packed_Nx.shape[1:])

    def gather(self, padded_BTx: Tensor) -> Tensor:
        """(B, T, ...) to (N, ...)."""
        return padded_BTx.flatten(0, 1)[self.cells_N]


class _Known(NamedTuple):
    """What was made of the weights while they were in ``state``."""

    state: Hashable
    weights: StackWeights
    beginnings: dict[tuple[int, ...], Beginning]


class _Rotary(NamedTuple):
    """Tables at the tokens of a packing."""

    cos_N1E: Tensor
    sin_N1E: Tensor


class LlamaDecoder(nn.Module):
    """Embedding, decoder layers and, optionally, the final norm.

    Args:
        shape: sizes; the weights are left uninitialised for ``load_state_dict``.
        final_norm: keep the final norm, else the output is the residual stream.
    """

    def __init__(self, shape: LlamaShape, *, final_norm: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = _Linear(shape.hidden_size, shape.vocab_size)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.norm = _RMSNorm(shape) if final_norm else nn.Identity()
        self._known: _Known | None = None
        self._expected: tuple[tuple[int, ...], ...] = ()
        self._int8 = False

    @classmethod
    def from_directory(
        cls, folder: Path, *, layers: int | None = None, dtype: torch.dtype | None = None, final_norm: bool = False
    ) -> LlamaDecoder:
        """Read ``config.json`` and ``model.safetensors`` (names of ``LlamaForCausalLM``), in evaluation mode.

        Args:
            folder: a model directory with its weights in one file. Packed ones (``models/quantized``) are unpacked.
            layers: how many of the lowest layers; ``None`` for all.
            dtype: of the weights; ``None`` keeps the stored dtype.
            final_norm: keep the final norm.

        Raises:
            NotFoundError: no such folder or file.
            DataError: not a plain Llama, quantized in a way that cannot be read, a weight is missing, or ``layers``
                is out of range.
        """
        shape = LlamaShape.from_config(read_json(folder / "config.json"), where=str(folder / "config.json"))
        if layers is not None:
            if not 1 <= layers <= shape.layers:
                raise DataError(f"layers is `{layers}`, the model has {shape.layers}", where=str(folder))
            shape = replace(shape, layers=layers)
        model = cls(shape, final_norm=final_norm)
        state = _read_state(folder, [f"model.{name}" for name in model.state_dict()], layers=shape.layers)
        state = {name.removeprefix("model."): tensor.to(dtype) for name, tensor in state.items()}
        model.load_state_dict(state, assign=True)
        return model.eval().requires_grad_(False)

    def expect(self, beginnings: Sequence[Sequence[int]]) -> None:
        """Token ids that many sequences will begin with: on CPU each is computed once, when first met."""
        self._expected = tuple(sorted((tuple(ids) for ids in beginnings if ids), key=len, reverse=True))

    def use_int8(self) -> None:
        """From now on multiply by matrices that are rounded to 8 bits; see ``packed/int8``. On CPU only.

        Raises:
            ConfigError: on another device, or products of 8-bit integers are not exact here.
        """
        if not _is_cpu(self.embed_tokens.weight):
            raise ConfigError("int8 is computed on CPU only", where="dtype", hint="Use bfloat16.")
        if not int8_is_exact():
            raise ConfigError(
                "this processor or this torch has no exact products of 8-bit integers (AVX-512 VNNI and oneDNN)",
                where="dtype",
                hint="Use bfloat16 or float32.",
            )
        self._int8 = True
        self._known = None

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *, use_cache: bool = False) -> DecoderOutput:
        """Hidden states of a batch of sequences, each padded on the right.

        Args:
            input_ids: (B, T) token ids.
            attention_mask: (B, T), 1 on tokens, 0 on padding.
            use_cache: must be false; taken so that a call that fits ``LlamaModel`` fits here.

        Raises:
            ValueError: padding that is not on the right, or a cache is asked for.
        """
        mask_BT = attention_mask.bool()
        if use_cache or bool((mask_BT[:, 1:] & ~mask_BT[:, :-1]).any()):
            raise ValueError("only right padding without a cache is computed")
        cells_N = mask_BT.flatten().nonzero().squeeze(1)
        packing = _Packing(cells_N, *mask_BT.shape)
        states_ND = (self._packed if _is_cpu(input_ids) else self._padded)(input_ids.flatten()[cells_N], packing)
        return DecoderOutput(packing.spread(self.norm(states_ND)))

    def _packed(self, ids_N: Tensor, packing: _Packing) -> Tensor:
        lengths = [n for n in (packing.cells_N // packing.columns).bincount().tolist() if n]
        known = self._known_state()
        shared = _shared_tokens(torch.split(ids_N, lengths))
        beginning = self._beginning(known, ids_N[: max(lengths)].tolist(), lengths, shared)
        if beginning is not None:
            shared = len(beginning.hidden_PD)
        # The first sequence's beginning stands for all; the tokens after it follow, sequence by sequence.
        positions_N = packing.positions
        after_N = positions_N >= shared
        chosen = after_N.nonzero().squeeze(1)
        if beginning is None:
            chosen = torch.cat([torch.arange(shared), chosen])
        segments = []
        start = shared if beginning is None else 0
        for length in lengths:
            if length > shared:
                tokens = slice(start, start + length - shared)
                segments.append(Segment(tokens, tokens))
                start = tokens.stop
        ids, positions = ids_N[chosen], positions_N[chosen]
        if beginning is None:
            states = token_states(known.weights, ids, positions, segments, shared=shared)
        else:
            after = token_states(known.weights, ids, positions, segments, prefix=beginning.states)
            states = torch.cat([beginning.hidden_PD, after])
        return states[torch.where(after_N, after_N.cumsum(0) + shared - 1, positions_N)]

    def _known_state(self) -> _Known:
        """The weights as the packed pass multiplies by them, anew after they have changed."""
        state = weights_state(self)
        known = self._known
        if known is None or known.state != state:
            # Stacking may move parameters, so their state is taken again.
            weights = stack_weights(self, self.shape, int8=self._int8)
            known = self._known = _Known(weights_state(self), weights, {})
        return known

    def _beginning(self, known: _Known, first: list[int], lengths: Sequence[int], shared: int) -> Beginning | None:
        """An expected beginning of all sequences that leaves fewer tokens than what they share among themselves.

        Args:
            known: where it is, or is put.
            first: token ids of the first sequence, or more.
            lengths: of the sequences.
            shared: tokens that all of several sequences begin with.
        """
        count = len(lengths)
        room = shared if count > 1 else max(lengths, default=1) - 1
        for ids in self._expected:
            fits = len(ids) <= room and tuple(first[: len(ids)]) == ids and len(ids) < max(lengths)
            if fits and count * len(ids) > (count - 1) * shared:
                if ids not in known.beginnings:
                    known.beginnings[ids] = beginning_of(known.weights, ids)
                return known.beginnings[ids]
        return None

    def _padded(self, ids_N: Tensor, packing: _Packing) -> Tensor:
        hidden_ND = F.embedding(ids_N, self.embed_tokens.weight)
        rotary = _rotary(packing.positions, self.shape, hidden_ND.dtype)
        for layer in self.layers:
            hidden_ND = layer(hidden_ND, packing, rotary)
        return hidden_ND


def _shared_tokens(sequences: Sequence[Tensor]) -> int:
    """How many tokens all sequences begin with, if there are several."""
    if len(sequences) < 2:
        return 0
    shortest = min(map(len, sequences))
    beginnings = torch.stack([ids[:shortest] for ids in sequences])
    return int((beginnings == beginnings[0]).all(dim=0).cumprod(0).sum())


def _is_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


class _Linear(nn.Module):
    """A weight (outputs, inputs) without bias, left uninitialised.

    ``nn.Linear`` would fill memory that ``load_state_dict`` replaces, and on the meta device its initialiser imports
    torch's compiler, which takes longer than reading the weights.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, hidden_Nx: Tensor) -> Tensor:
        return F.linear(hidden_Nx, self.weight)


class _RMSNorm(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape.hidden_size))
        self.epsilon = shape.norm_epsilon

    def forward(self, hidden_ND: Tensor) -> Tensor:
        # Normalised in float32 and rounded before the weight is applied, as transformers does.
        wide = hidden_ND.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.weight * (wide * scale).to(hidden_ND.dtype)


class _Attention(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.head_size = shape.head_size
        self.q_proj = _Linear(shape.hidden_size, shape.heads * shape.head_size)
        self.k_proj = _Linear(shape.hidden_size, shape.key_heads * shape.head_size)
        self.v_proj = _Linear(shape.hidden_size, shape.key_heads * shape.head_size)
        self.o_proj = _Linear(shape.heads * shape.head_size, shape.hidden_size)

    def forward(self, hidden_ND: Tensor, packing: _Packing, rotary: _Rotary) -> Tensor:
        query_NHE = _rotate(self.q_proj(hidden_ND).unflatten(-1, (-1, self.head_size)), rotary)
        key_NKE = _rotate(self.k_proj(hidden_ND).unflatten(-1, (-1, self.head_size)), rotary)
        value_NKE = self.v_proj(hidden_ND).unflatten(-1, (-1, self.head_size))
        # Padding is on the right and attention is causal, so no token sees it: no mask is needed.
        mixed_BHTE = F.scaled_dot_product_attention(
            packing.spread(query_NHE).transpose(1, 2),
            packing.spread(key_NKE).transpose(1, 2),
            packing.spread(value_NKE).transpose(1, 2),
            is_causal=True,
            enable_gqa=True,
        )
        output: Tensor = self.o_proj(packing.gather(mixed_BHTE.transpose(1, 2)).flatten(1))
        return output


class _FeedForward(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate_proj = _Linear(shape.hidden_size, shape.intermediate_size)
        self.up_proj = _Linear(shape.hidden_size, shape.intermediate_size)
        self.down_proj = _Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, hidden_ND: Tensor) -> Tensor:
        output: Tensor = self.down_proj(F.silu(self.gate_proj(hidden_ND)) * self.up_proj(hidden_ND))
        return output


class _Layer(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.input_layernorm = _RMSNorm(shape)
        self.self_attn = _Attention(shape)
        self.post_attention_layernorm = _RMSNorm(shape)
        self.mlp = _FeedForward(shape)

    def forward(self, hidden_ND: Tensor, packing: _Packing, rotary: _Rotary) -> Tensor:
        hidden_ND = hidden_ND + self.self_attn(self.input_layernorm(hidden_ND), packing, rotary)
        output: Tensor = hidden_ND + self.mlp(self.post_attention_layernorm(hidden_ND))
        return output


def _rotary(positions_N: Tensor, shape: LlamaShape, dtype: torch.dtype) -> _Rotary:
    exponents = torch.arange(0, shape.head_size, 2, device=positions_N.device).float() / shape.head_size
    angles = positions_N[:, None].float() * (1.0 / shape.rope_theta**exponents)
    angles_N1E = torch.cat([angles, angles], dim=-1)[:, None]
    return _Rotary(angles_N1E.cos().to(dtype), angles_N1E.sin().to(dtype))


def _rotate(heads_NHE: Tensor, rotary: _Rotary) -> Tensor:
    first, second = heads_NHE.chunk(2, dim=-1)
    return heads_NHE * rotary.cos_N1E + torch.cat([-second, first], dim=-1) * rotary.sin_N1E


def _read_state(folder: Path, names: Sequence[str], *, layers: int) -> dict[str, Tensor]:
    """The named tensors of a model directory.

    Raises:
        NotFoundError: no file of weights.
        DataError: one of them is missing.
    """
    from safetensors import SafetensorError, safe_open

    from corral.models.quantized.folder import is_quantized_folder, unpacked_state

    if is_quantized_folder(folder):
        found = unpacked_state(folder, layers=layers)
        if missing := [name for name in names if name not in found]:
            raise DataError(f"has no `{missing[0]}`", where=str(folder))
        return {name: found[name] for name in names}
    if read_json(folder / "config.json").get("quantization_config") is not None:
        raise DataError(
            "the weights are quantized in a way that cannot be read here",
            where=str(folder),
            hint="Use `load_backbone`, or the model that it was made from.",
        )
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise NotFoundError("no `model.safetensors`", where=str(folder), hint="Sharded models: `load_backbone`.")
    try:
        with safe_open(weights, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise DataError(f"not the weights of this model: {error}", where=str(weights)) from error
