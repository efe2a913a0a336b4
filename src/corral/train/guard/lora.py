"""LoRA (arXiv 2106.09685) on Linears of a Llama's upper layers; everything else stays frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peft import LoraConfig, get_peft_model

from corral.core.errors import ConfigError
from corral.train.guard.lora_targets import LINEARS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_trained_layers(first: int, layers: int) -> None:
    """Refuse settings that leave nothing to train.

    Raises:
        ConfigError: ``first`` is not one of the layers.
    """
    if first >= layers:
        raise ConfigError(f"first_trained_layer is `{first}` with {layers} layers kept", where="first_trained_layer")


def with_lora(
    model: PreTrainedModel, *, first_layer: int, rank: int, alpha: int, targets: Sequence[str] = LINEARS
) -> Any:
    """peft's model around ``model``, with fresh weights on ``targets`` of the layers from ``first_layer`` on.

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
            target_modules=list(targets),
            layers_to_transform=list(range(first_layer, layers)),
            layers_pattern="layers",
        ),
    )
