"""The weights of a plain Llama as the packed forward pass multiplies by them.

Projections of the same input are stacked into one matrix. The stacked matrix takes the place of the parameters'
memory, which become views of it, so the model that they belong to stays what it was and nothing is held twice.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from corral.core.errors import DataError
from corral.models.llama_shape import LlamaShape

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
        attention_norm: (D,).
        query_key_value: query heads, then key heads, then value heads.
        output: of attention.
        feed_forward_norm: (D,).
        gate_up: gate rows, then up rows.
        down: back to the residual stream.
    """

    attention_norm: Tensor
    query_key_value: Tensor
    output: Tensor
    feed_forward_norm: Tensor
    gate_up: Tensor
    down: Tensor


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
        """Of all weights."""
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
    """The weights of a model for which ``is_plain_llama`` holds; memory is shared with it."""
    decoder: Any = model.base_model
    return ModelWeights(
        shape=LlamaShape.from_config(model.config.to_dict()),
        embedding=decoder.embed_tokens.weight.detach(),
        layers=tuple(layer_weights(layer) for layer in decoder.layers),
        norm=decoder.norm.weight.detach(),
        head=model.get_output_embeddings().weight.detach(),
    )


def weights_state(model: PreTrainedModel) -> Hashable:
    """Where the parameters lie and how often each was changed in place: another state, other weights."""
    return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters())


def layer_weights(layer: Any) -> LayerWeights:
    """The weights of one layer with the parameter names of transformers' Llama."""
    attention, feed_forward = layer.self_attn, layer.mlp
    return LayerWeights(
        attention_norm=layer.input_layernorm.weight.detach(),
        query_key_value=stack_rows([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]),
        output=attention.o_proj.weight.detach(),
        feed_forward_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=stack_rows([feed_forward.gate_proj.weight, feed_forward.up_proj.weight]),
        down=feed_forward.down_proj.weight.detach(),
    )


def stack_rows(weights: Sequence[nn.Parameter]) -> Tensor:
    """One matrix of all rows, of which the parameters become views; a matrix stacked before is found again."""
    first = weights[0].data
    if _follow_each_other(weights):
        rows = sum(len(weight) for weight in weights)
        return first.as_strided((rows, first.shape[1]), first.stride())
    stacked = torch.cat([weight.data for weight in weights])
    for weight, part in zip(weights, torch.split(stacked, [len(weight) for weight in weights]), strict=True):
        weight.data = part
    return stacked


def _follow_each_other(weights: Sequence[nn.Parameter]) -> bool:
    """Whether each matrix begins where the one before it ends, in one allocation."""
    expected = weights[0].data_ptr()
    storage = weights[0].untyped_storage().data_ptr()
    for weight in weights:
        if weight.data_ptr() != expected or weight.untyped_storage().data_ptr() != storage:
            return False
        if not weight.is_contiguous():
            return False
        expected += weight.numel() * weight.element_size()
    return True


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is one that transformers' Llama is made of, as it was made."""
    kind = type(module)
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    known = kind.__module__.startswith(_LIBRARIES) and kind.__name__ in _MODULES
    return known and not hooked and getattr(module, "bias", None) is None
