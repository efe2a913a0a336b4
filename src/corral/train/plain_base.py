"""The base of a training: a model whose weights are all ordinary tensors, so that what is written is a model again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from corral.core.errors import ConfigError
from corral.models.loading import load_causal_lm
from corral.models.quantized.linear import refuse_quantized
from corral.models.routing.installing import routing_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_plain_base(base: str, *, layers: int | None = None) -> PreTrainedModel:
    """A causal language model in float32 that can be trained and written as a model directory.

    Args:
        base: model reference.
        layers: keep only the lowest layers; ``None`` keeps all.

    Raises:
        NotFoundError: nothing at ``base``.
        ConfigError: a model with MoGU's gates, which a plain directory cannot hold, or one with packed layers, whose
            weights are no tensors that an optimiser could change.
    """
    model = load_causal_lm(base, dtype=torch.float32, layers=layers)
    if routing_of(model) is not None:
        raise ConfigError(
            "is a model with MoGU's gates, which cannot be trained as a plain one",
            where=base,
            hint="Train its base model, whose name is in `routing.json`.",
        )
    refuse_quantized(model, "trained")
    return model
