"""LoRA (arXiv 2106.09685) on Linears of a Llama's or an encoder's upper layers; everything else stays frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from corral.core.errors import ConfigError, NotFoundError
from corral.core.files import atomic_write_json, read_json
from corral.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from corral.train.lora_targets import ENCODER_LINEARS, LINEARS
from corral.train.trained_layers import check_trained_layers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def with_lora(
    model: PreTrainedModel, *, first_layer: int, rank: int, alpha: int, targets: Sequence[str] | None = None
) -> Any:
    """peft's model around ``model``, with fresh weights on ``targets`` of the layers from ``first_layer`` on.

    ``targets`` are names of Linears; ``None`` for all of a layer.

    Raises:
        ConfigError: ``first_layer`` is not one of the layers.
    """
    layers = model.config.num_hidden_layers
    check_trained_layers(first_layer, layers)
    model.requires_grad_(False)
    encoder = model.config.model_type == "bert"
    return get_peft_model(
        model,
        LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=list(targets or (ENCODER_LINEARS if encoder else LINEARS)),
            layers_to_transform=list(range(first_layer, layers)),
            layers_pattern="layer" if encoder else "layers",
        ),
    )


def load_lora(model: Any, folder: Path) -> None:
    """Replace the adapter's weights by those of the adapter in ``folder``, for training to go on from.

    Args:
        model: what ``with_lora`` returned.
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors`` of an adapter of the same shape.

    Raises:
        NotFoundError: a file of it is missing.
        ConfigError: the adapter is on other layers, or of another rank or scale.
    """
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise NotFoundError(f"no `{name}`", where=str(folder), hint="Name the folder of an adapter.")
    described, wanted = read_json(folder / ADAPTER_CONFIG), model.peft_config["default"]
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    own = get_peft_model_state_dict(model)
    same_shape = {name: tensor.shape for name, tensor in tensors.items()} == {k: v.shape for k, v in own.items()}
    if not same_shape or described["lora_alpha"] != wanted.lora_alpha:
        raise ConfigError(
            f"the adapter has rank {described['r']} and alpha {described['lora_alpha']} on other layers than the "
            f"settings, which say rank {wanted.r} and alpha {wanted.lora_alpha}",
            where=str(folder),
            hint="Take `layers`, `first_trained_layer`, `rank` and `alpha` of the training that it comes from.",
        )
    set_peft_model_state_dict(model, {name: tensor.float() for name, tensor in tensors.items()})


def write_adapter(adapted: Any, folder: Path, *, base: str, dtype: torch.dtype) -> None:
    """Write the adapter in peft's file format into an existing folder.

    Args:
        adapted: peft's model.
        folder: gets ``adapter_model.safetensors`` and ``adapter_config.json``.
        base: name of the model that it was trained on.
        dtype: of the stored weights.
    """
    found = get_peft_model_state_dict(adapted, save_embedding_layers=False)  # else peft asks the hub for the base
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in found.items()}
    save_file(weights, folder / ADAPTER_WEIGHTS)
    described = adapted.peft_config["default"].to_dict()
    described |= {"base_model_name_or_path": base, "inference_mode": True}
    atomic_write_json(folder / ADAPTER_CONFIG, _plain(described))


def _plain(value: Any) -> Any:
    """JSON values of peft's config: sets become sorted lists, enums their values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return getattr(value, "value", value)
