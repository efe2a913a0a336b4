"""The weights of a plain Llama as the packed forward pass multiplies by them.

The projections of attention are stacked into one matrix. The model that the weights belong to computes what it did
before; a change of its weights is seen by ``weights_state``.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from corral.core.errors import DataError
from corral.models.llama_shape import LlamaShape
from corral.models.packed.int8 import GatedInt8Matrix, Int8Matrix
from corral.models.packed.matrices import REORDER_BYTES, Addend, Factor, GatedMatrix, Matrix, stacked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DTYPES: Final = (torch.bfloat16, torch.float32)
_LIBRARIES: Final = ("torch.nn.", "transformers.")
_LLAMA: Final = ("ForCausalLM", "Model", "DecoderLayer", "Attention", "MLP", "RMSNorm", "RotaryEmbedding")
_MODULES: Final = frozenset(
    {"Embedding", "Linear", "ModuleList", "SiLU", "SiLUActivation", *map("Llama{}".format, _LLAMA)}
)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer; matrices are (outputs, inputs).

    Attributes:
        attention_norm: (D,), float32.
        query_key_value: query heads, then key heads, then value heads.
        output: of attention.
        feed_forward_norm: (D,), float32.
        gated: into the feed-forward layer, one half through the activation and times the other.
        down: back to the residual stream.
    """

    attention_norm: Tensor
    query_key_value: Factor
    output: Addend
    feed_forward_norm: Tensor
    gated: Factor
    down: Addend


@dataclass(frozen=True, slots=True)
class StackWeights:
    """A decoder stack.

    Attributes:
        shape: its sizes.
        embedding: (V, D).
        layers: from the lowest.
    """

    shape: LlamaShape
    embedding: Tensor
    layers: tuple[LayerWeights, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Of all weights, or of those that were rounded to 8 bits; attention computes in it."""
        return self.embedding.dtype


@dataclass(frozen=True, slots=True)
class ModelWeights(StackWeights):
    """A whole causal language model.

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
    """The weights of a model for which ``is_plain_llama`` holds; memory is shared with it but for reordered copies."""
    decoder: Any = model.base_model
    stack = stack_weights(decoder, LlamaShape.from_config(model.config.to_dict()))
    return ModelWeights(
        stack.shape,
        stack.embedding,
        stack.layers,
        norm=decoder.norm.weight.detach(),
        head=model.get_output_embeddings().weight.detach(),
    )


def weights_state(model: nn.Module) -> Hashable:
    """Where the parameters lie and how often each was changed in place: another state, other weights."""
    return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters())


def stack_weights(decoder: Any, shape: LlamaShape, *, int8: bool = False) -> StackWeights:
    """The weights of a decoder with the parameter names of transformers' ``LlamaModel``.

    Args:
        decoder: it.
        shape: its sizes.
        int8: multiply by copies of the matrices that are rounded to 8 bits; ``int8_is_exact`` must hold.
    """
    size = sum(parameter.nbytes for parameter in decoder.layers.parameters())
    layers = tuple(_layer_weights(layer, reorder=size <= REORDER_BYTES, int8=int8) for layer in decoder.layers)
    return StackWeights(shape, decoder.embed_tokens.weight.detach(), layers)


def _layer_weights(layer: Any, *, reorder: bool, int8: bool) -> LayerWeights:
    attention, feed_forward = layer.self_attn, layer.mlp

    def matrix(*linears: Any) -> Int8Matrix | Matrix:
        weights = [linear.weight for linear in linears]
        if int8:
            return Int8Matrix(torch.cat([weight.detach() for weight in weights]))
        return stacked(weights, reorder=reorder) if len(weights) > 1 else Matrix(weights[0].detach(), reorder=reorder)

    gate, up = feed_forward.gate_proj, feed_forward.up_proj
    return LayerWeights(
        attention_norm=layer.input_layernorm.weight.detach().float(),
        query_key_value=matrix(attention.q_proj, attention.k_proj, attention.v_proj),
        output=matrix(attention.o_proj),
        feed_forward_norm=layer.post_attention_layernorm.weight.detach().float(),
        gated=GatedInt8Matrix(matrix(gate, up)) if int8 else GatedMatrix(matrix(gate), matrix(up)),
        down=matrix(feed_forward.down_proj),
    )


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is one that transformers' Llama is made of, as it was made."""
    kind = type(module)
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    known = kind.__module__.startswith(_LIBRARIES) and kind.__name__ in _MODULES
    return known and not hooked and getattr(module, "bias", None) is None
