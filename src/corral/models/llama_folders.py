"""Llamas from folders whose layout this library knows: no Auto classes, no initialisation of weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from corral.core.errors import DataError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from corral.models.quantized.packed_weight import PackedWeight


def read_packed_llama(folder: Path, class_name: str, *, layers: int | None = None) -> PreTrainedModel:
    """A Llama whose Linears are packed.

    Args:
        folder: of ``models.quantized``.
        class_name: of transformers, ``LlamaForCausalLM`` or ``LlamaModel``.
        layers: keep only the lowest layers; ``None`` keeps all.

    Raises:
        DataError: another architecture, ``layers`` out of range, or weights that are not those of the config.
    """
    from transformers.models.llama.modeling_llama import LlamaConfig

    from corral.models.quantized.folder import MODEL_TYPES, read_quantized

    config = LlamaConfig.from_pretrained(folder)
    if config.model_type not in MODEL_TYPES:
        raise DataError(
            f"packed layers of a `{config.model_type}` cannot be read, only those of a Llama", where=str(folder)
        )
    if layers is not None:
        keep_layers(config, layers, where=str(folder))
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # from here on an ordinary model, some of whose layers are packed
    weights, state = read_quantized(folder, layers=layers)
    return _assembled(class_name, config, state, weights, folder=folder)


def read_llama(folder: Path, class_name: str) -> PreTrainedModel:
    """A Llama whose tensors are memory-mapped.

    Args:
        folder: one that this library wrote.
        class_name: as for ``read_packed_llama``.

    Raises:
        DataError: the weights are not those of the config; names the first.
    """
    from safetensors.torch import load_file
    from transformers.models.llama.modeling_llama import LlamaConfig

    config = LlamaConfig.from_pretrained(folder)
    return _assembled(class_name, config, load_file(folder / "model.safetensors"), {}, folder=folder)


def keep_layers(config: Any, layers: int, *, where: str) -> None:
    """Have a transformers config describe the lowest layers only.

    Raises:
        DataError: there are not as many.
    """
    total = config.num_hidden_layers
    if not 1 <= layers <= total:
        raise DataError(f"layers is `{layers}`, the model has {total}", where=where)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def _assembled(
    class_name: str, config: Any, state: dict[str, torch.Tensor], packed: dict[str, PackedWeight], *, folder: Path
) -> PreTrainedModel:
    """A Llama of given weights and packed layers, both as ``LlamaForCausalLM`` names them.

    Raises:
        DataError: they are not those of the config; names the first that is missing, too much or of another shape.
    """
    import torch
    from transformers.models.llama import modeling_llama

    from corral.models.head_trimming import HEAD_TOKENS, read_trimmed_head
    from corral.models.quantized.folder import named_tensors
    from corral.models.quantized.linear import install

    with torch.device("meta"):
        model: PreTrainedModel = getattr(modeling_llama, class_name)(config)
    if class_name == "LlamaModel":
        state.pop("lm_head.weight", None)
        state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
        packed = {name.removeprefix("model."): weight for name, weight in packed.items()}
    elif config.tie_word_embeddings and "model.embed_tokens.weight" in state:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    if class_name != "LlamaModel" and (folder / HEAD_TOKENS).is_file():
        model.lm_head = read_trimmed_head(folder, state)
    if packed:
        try:
            install(model, packed)
        except DataError as error:
            error.where = f"{folder}: {error.where}"
            raise
        state |= named_tensors(packed)
    _check_state(model.state_dict(), state, folder)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    # Its buffers are computed, not stored, so they are still on the meta device.
    decoder = model if class_name == "LlamaModel" else model.model
    decoder.rotary_emb = modeling_llama.LlamaRotaryEmbedding(config)
    return model.eval()


def _check_state(expected: dict[str, torch.Tensor], state: dict[str, torch.Tensor], folder: Path) -> None:
    """Whether files hold the tensors of a model, by name, shape and kind of number."""
    if missing := sorted(expected.keys() - state.keys()):
        raise DataError(f"there is no `{missing[0]}` ({len(missing)} weights are missing)", where=str(folder))
    if surplus := sorted(state.keys() - expected.keys()):
        raise DataError(f"`{surplus[0]}` is no weight of the model that config.json describes", where=str(folder))
    for name, tensor in sorted(state.items()):
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.is_floating_point() != wanted.is_floating_point():
            raise DataError(
                f"`{name}` is {tensor.dtype} of shape {tuple(tensor.shape)}, the model has {tuple(wanted.shape)}",
                where=str(folder),
            )
