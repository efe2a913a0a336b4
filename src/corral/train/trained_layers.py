"""Which layers of a Llama are trained: those from one on, and the final norm with them."""

from __future__ import annotations

from typing import Any

from corral.core.errors import ConfigError


def check_trained_layers(first: int, layers: int) -> None:
    """Refuse settings that leave nothing to train.

    Raises:
        ConfigError: ``first`` is not one of the layers.
    """
    if first >= layers:
        raise ConfigError(f"first_trained_layer is `{first}` with {layers} layers kept", where="first_trained_layer")


def mark_trained_layers(model: Any, first: int) -> None:
    """Let the layers' own weights and the final norm take gradients, and nothing else; from layer 0 on, everything.

    Args:
        model: of transformers, with its decoder in ``model``.
        first: the lowest layer to train.

    Raises:
        ConfigError: ``first`` is not one of the layers.
    """
    check_trained_layers(first, model.config.num_hidden_layers)
    model.requires_grad_(first == 0)
    model.model.norm.requires_grad_(True)
    model.model.layers[first:].requires_grad_(True)
