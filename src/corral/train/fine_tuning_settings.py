"""How a chat model is fine-tuned: settings alone, so that reading a recipe needs no training library.

Defaults are for SmolLM2 on two cores; published values are in the ``paper`` profiles of the recipes that train with it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from corral.core.config import Config


class FineTuningConfig(Config):
    """What supervised and preference training have in common."""

    first_trained_layer: int = Field(8, ge=0, description="layers below this one stay as they are")
    rank: int = Field(16, ge=1, description="LoRA rank on every Linear of the trained layers")
    alpha: int = Field(32, ge=1, description="LoRA alpha")
    full: bool = Field(
        False, description="train the layers' own weights and the final norm; from layer 0, embeddings and head as well"
    )
    max_tokens: int = Field(192, ge=8, description="longer rows lose the end of their completion")
    batch_tokens: int = Field(1024, ge=8, description="padded tokens of one batch, at most")
    accumulation: int = Field(1, ge=1, description="batches an optimiser step")
    epochs: int = Field(1, ge=1)
    learning_rate: float = Field(3e-4, gt=0, description="peak")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field("cosine", description="after the warm-up")
    warmup_share: float = Field(0.05, ge=0, le=1)
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="autocast dtype; trained weights stay float32")
    save_every: int = Field(50, ge=1, description="optimiser steps between checkpoints")
    seed: int = 0


class SftConfig(FineTuningConfig):
    """Supervised fine-tuning."""


class DpoConfig(FineTuningConfig):
    """Direct preference optimisation."""

    beta: float = Field(0.1, gt=0, description="how dearly distance from the reference is paid for")
    chosen_nll_weight: float = Field(
        0.0, ge=0, description="weight of the chosen side's negative log-likelihood a token (RPO, arXiv 2404.19733)"
    )
    learning_rate: float = Field(5e-5, gt=0, description="peak")


class PreferenceStageConfig(Config):
    """Direct preference optimisation as one stage of a training, the harmful answer rejected."""

    beta: float = Field(0.1, gt=0)
    epochs: int = Field(1, ge=1)
    learning_rate: float = Field(5e-5, gt=0, description="published: 5e-7 (8B, all weights), 2e-6 (70B, LoRA)")
    batch_tokens: int = Field(2048, ge=8, description="padded tokens of one batch, both sides")

    def after(self, config: FineTuningConfig) -> DpoConfig:
        """The settings of the stage: these, and for all else those of the training that it belongs to."""
        shared = {name: getattr(config, name) for name in FineTuningConfig.model_fields}
        return DpoConfig.model_validate({**shared, **self.model_dump()})
