"""How a classifier guard is trained: settings alone, so that reading a recipe needs no training library."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from corral.core.config import Config


class GuardTrainingConfig(Config):
    """How a guard is trained; the data is another matter."""

    base: str = Field("embedded:smollm2-135m-instruct", description="Llama-family base model")
    start_from: Path | None = Field(
        None, description="folder of a guard of the same shape whose adapter and heads training goes on from"
    )
    layers: int = Field(20, ge=1, description="lower decoder layers to keep")
    first_trained_layer: int = Field(8, ge=0, description="layers below this one stay as they are")
    rank: int = Field(16, ge=1, description="LoRA rank on every Linear of the trained layers")
    alpha: int = Field(32, ge=1, description="LoRA alpha")
    max_row_tokens: int = Field(192, ge=16, description="longer rows keep the start of the judged message")
    max_context_tokens: int = Field(96, ge=0, description="turns before the judged one keep their last tokens")
    batch_tokens: int = Field(1024, ge=64, description="padded tokens of one optimiser step on one device")
    accumulation: int = Field(1, ge=1, description="micro-batches an optimiser step")
    epochs: int = Field(1, ge=1)
    category_weight: float = Field(0.25, ge=0, description="weight of the category head beside a binary head")
    learning_rate: float = Field(7e-4, gt=0, description="peak, cosine to zero")
    warmup_share: float = Field(0.05, ge=0, le=1)
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="autocast dtype; trained weights stay float32")
    save_every: int = Field(200, ge=1, description="optimiser steps between checkpoints")
    seed: int = 0
