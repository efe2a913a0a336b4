"""The weights of a plain Llama as the packed forward pass multiplies by them.

The projections of attention are stacked into one matrix. The model that the weights belong to computes what it did
before; a change of its weights is seen by ``weights_state``.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from corral.core.errors import DataError
from corral.models.llama_shape import LlamaShape
from corral.models.packed.int8 import GatedInt8Matrix, Int8Matrix
from corral.models.packed.matrices import REORDER_BYTES, Addend, Factor, GatedMatrix, Matrix, stacked
from corral.models.quantized.orthogonal import KroneckerOrthogonal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DTYPES: Final = (torch.bfloat16, torch.float32)
_TURN_SEED: Final = 0
_LIBRARIES: Final = ("torch.nn.", "transformers.")
_LLAMA: Final = ("ForCausalLM", "Model", "DecoderLayer", "Attention", "MLP", "RMSNorm", "RotaryEmbedding")
_MODULES: Final = frozenset(
    {"Embedding", "Linear", "ModuleList", "SiLU", "SiLUActivation", *map("Llama{}".format, _LLAMA)}
)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer; matrices are (outputs, inputs).

    Attributes:
        attention_norm: (D,), float32; ``None`` where it is part of the matrix that follows.
        query_key_value: query heads, then key heads, then value heads.
        output: of attention.
        feed_forward_norm: like ``attention_norm``.
        gated: into the feed-forward layer, one half through the activation and times the other.
        down: back to the residual stream.
    """

    attention_norm: Tensor | None
    query_key_value: Factor
    output: Addend
    feed_forward_norm: Tensor | None
    gated: Factor
    down: Addend


@dataclass(frozen=True, slots=True)
class StackWeights:
    """A decoder stack.

    Attributes:
        shape: its sizes.
        embedding: (V, D).
        layers: from the lowest.
        turn: of the residual stream while it is in the layers; ``None`` for none.
    """

    shape: LlamaShape
    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    turn: KroneckerOrthogonal | None = None

    def enter(self, ids_N: Tensor) -> Tensor:
        """The residual stream (N, D), in float32, before the first layer."""
        hidden_ND = F.embedding(ids_N, self.embedding).float()
        return hidden_ND if self.turn is None else self.turn.apply(hidden_ND)

    def leave(self, hidden_ND: Tensor) -> Tensor:
        """The residual stream as the model has it; may be ``hidden_ND`` itself."""
        return hidden_ND if self.turn is None else self.turn.undo(hidden_ND)

    @property
    def dtype(self) -> torch.dtype:
        """Of all weights, or of those that were rounded to 8 bits; attention computes in it."""
        return self.embedding.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWeights(StackWeights):
    """A whole causal language model, its residual stream as it is.

    What follows the attention of its highest layer is in float32, unless the model is large: few tokens go there, and
    in some models it writes large constants, whose rounding to bfloat16 would outweigh all others.

    Attributes:
        norm: (D,), after the last layer.
        head: (V, D).
    """

    norm: Tensor
    head: Tensor


def is_plain_llama(model: PreTrainedModel) -> bool:
    """Whether ``model_weights`` gives all that the model computes.

    True for transformers' Llama in bfloat16 or float32 on CPU, without quantised layers, adapters, hooks, or anything
    else that its forward pass would do beyond the published architecture.
    """
    if type(model).__name__ != "LlamaForCausalLM" or model.device.type != "cpu" or model.dtype not in _DTYPES:
        return False
    try:
        LlamaShape.from_config(model.config.to_dict())
    except (DataError, KeyError):
        return False
    if len({parameter.dtype for parameter in model.parameters()}) > 1 or model.training:
        return False
    return all(_is_plain(module) for module in model.modules())


def model_weights(model: PreTrainedModel) -> ModelWeights:
    """The weights of a model for which ``is_plain_llama`` holds; memory is shared with it but for reordered copies
    and the end of the highest layer.
    """
    decoder: Any = model.base_model
    stack = stack_weights(decoder, LlamaShape.from_config(model.config.to_dict()))
    return ModelWeights(
        stack.shape,
        stack.embedding,
        (*stack.layers[:-1], _wide_end(decoder.layers[-1], stack.layers[-1])) if _is_small(decoder) else stack.layers,
        norm=decoder.norm.weight.detach(),
        head=model.get_output_embeddings().weight.detach(),
    )


def weights_state(model: nn.Module) -> Hashable:
    """Where the parameters lie and how often each was changed in place: another state, other weights.

    It is asked for before every pass, and ``Module.parameters`` takes three times as long over a deep tree.
    """
    found, waiting = [], [model]
    while waiting:
        module = waiting.pop()
        waiting.extend(child for child in module._modules.values() if child is not None)
        for parameter in module._parameters.values():
            if parameter is not None:
                found.append((parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version))
    return tuple(found)


def stack_weights(decoder: Any, shape: LlamaShape, *, int8: bool = False) -> StackWeights:
    """The weights of a decoder with the parameter names of transformers' ``LlamaModel``.

    Args:
        decoder: it.
        shape: its sizes.
        int8: multiply by copies of the matrices that are rounded to 8 bits; ``int8_is_exact`` must hold.
    """
    embedding = decoder.embed_tokens.weight.detach()
    if int8:
        turn = KroneckerOrthogonal.random(shape.hidden_size, _TURN_SEED)
        return StackWeights(shape, embedding, tuple(_rounded_layer(layer, turn) for layer in decoder.layers), turn)
    reorder = _is_small(decoder)
    return StackWeights(shape, embedding, tuple(_layer_weights(layer, reorder=reorder) for layer in decoder.layers))


def _is_small(decoder: Any) -> bool:
    """Whether copies of its matrices may be held beside them."""
    size: int = sum(parameter.nbytes for parameter in decoder.layers.parameters())
    return size <= REORDER_BYTES


def _layer_weights(layer: Any, *, reorder: bool) -> LayerWeights:
    attention, feed_forward = layer.self_attn, layer.mlp

    def matrix(linear: Any) -> Matrix:
        return Matrix(linear.weight.detach(), reorder=reorder)

    return LayerWeights(
        attention_norm=layer.input_layernorm.weight.detach().float(),
        query_key_value=stacked(
            (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight), reorder=reorder
        ),
        output=matrix(attention.o_proj),
        feed_forward_norm=layer.post_attention_layernorm.weight.detach().float(),
        gated=GatedMatrix(matrix(feed_forward.gate_proj), matrix(feed_forward.up_proj)),
        down=matrix(feed_forward.down_proj),
    )


def _wide_end(layer: Any, weights: LayerWeights) -> LayerWeights:
    """The layer, whose matrices behind attention multiply in float32; itself where all do."""
    if layer.mlp.down_proj.weight.dtype == torch.float32:
        return weights

    def matrix(linear: Any) -> Matrix:
        return Matrix(linear.weight.detach().float(), reorder=False)

    feed_forward = layer.mlp
    return replace(
        weights,
        output=matrix(layer.self_attn.o_proj),
        gated=GatedMatrix(matrix(feed_forward.gate_proj), matrix(feed_forward.up_proj)),
        down=matrix(feed_forward.down_proj),
    )


def _rounded_layer(layer: Any, turn: KroneckerOrthogonal) -> LayerWeights:
    """A layer of 8 bits, on either side of which the residual stream is turned.

    A few channels of the stream are far larger than the others and would leave these hardly any of the 8 bits. Turned,
    all are alike, and what is computed is the same: a norm does not change with a turn once its weight is part of the
    matrix that follows, and the turn of a matrix is part of it, too (QuaRot, arXiv 2404.00456; a random orthogonal
    matrix here in the place of its Hadamard matrices, and only of the residual stream).
    """
    attention, feed_forward = layer.self_attn, layer.mlp

    def reading(norm: Any, *linears: Any) -> Int8Matrix:
        stacked_rows = torch.cat([linear.weight.detach().float() for linear in linears])
        return Int8Matrix(turn.apply(stacked_rows * norm.weight.detach().float()))

    def writing(linear: Any, *, mix: bool) -> Int8Matrix:
        return Int8Matrix(turn.apply(linear.weight.detach().float().t()).t().contiguous(), mix=mix)

    return LayerWeights(
        attention_norm=None,
        query_key_value=reading(layer.input_layernorm, attention.q_proj, attention.k_proj, attention.v_proj),
        output=writing(attention.o_proj, mix=False),
        feed_forward_norm=None,
        gated=GatedInt8Matrix(reading(layer.post_attention_layernorm, feed_forward.gate_proj, feed_forward.up_proj)),
        down=writing(feed_forward.down_proj, mix=True),
    )


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is one that transformers' Llama is made of, as it was made."""
    kind = type(module)
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    known = kind.__module__.startswith(_LIBRARIES) and kind.__name__ in _MODULES
    return known and not hooked and getattr(module, "bias", None) is None
