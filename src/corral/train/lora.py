"""LoRA (arXiv 2106.09685) on all Linears of a Llama's upper layers; everything else stays frozen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from corral.core.errors import ConfigError
from corral.core.files import atomic_write_json
from corral.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_LINEARS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def check_trained_layers(first: int, layers: int) -> None:
    """Refuse settings that leave nothing to train.

    Raises:
        ConfigError: ``first`` is not one of the layers.
    """
    if first >= layers:
        raise ConfigError(f"first_trained_layer is `{first}` with {layers} layers kept", where="first_trained_layer")


def with_lora(model: PreTrainedModel, *, first_layer: int, rank: int, alpha: int) -> Any:
    """peft's model around ``model``, with fresh weights on the layers from ``first_layer`` on.

    Raises:
        ConfigError: ``first_layer`` is not one of the layers.
    """
    layers = model.config.num_hidden_layers
    check_trained_layers(first_layer, layers)
    model.requires_grad_(False)
    return get_peft_model(
        model,
        LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=list(_LINEARS),
            layers_to_transform=list(range(first_layer, layers)),
            layers_pattern="layers",
        ),
    )


def with_adapter(model: PreTrainedModel, folder: Path) -> Any:
    """peft's model around ``model`` with the adapter in ``folder``, whose training goes on."""
    model.requires_grad_(False)
    return PeftModel.from_pretrained(model, str(folder), is_trainable=True)


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
