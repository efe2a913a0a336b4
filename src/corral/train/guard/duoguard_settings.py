"""How DuoGuard's classifier is trained: settings alone, so that reading a recipe needs no training library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from corral.core.config import Config
from corral.train.lora_targets import LINEARS, LinearName


class DuoGuardTrainingConfig(Config):
    """How a twelve-category classifier is trained; the data is another matter."""

    base: str = Field("embedded:smollm2-135m-instruct", description="Llama-family base model")
    layers: int | None = Field(None, ge=1, description="lower decoder layers to keep, and the final norm; null: all")
    first_trained_layer: int = Field(20, ge=0, description="layers below this one stay as they are")
    full: bool = Field(False, description="train all weights from `first_trained_layer` on, without LoRA")
    rank: int = Field(16, ge=1, description="LoRA rank on the targets of the trained layers")
    alpha: int = Field(32, ge=1, description="LoRA alpha")
    targets: tuple[LinearName, ...] = Field(LINEARS, min_length=1, description="Linears that LoRA is put on")
    loss: Literal["zlpr", "bce"] = Field("zlpr", description="log-sum-exp over categories, or binary cross entropy")
    max_tokens: int = Field(192, ge=8, description="a longer text keeps its first tokens")
    batch_tokens: int = Field(1024, ge=64, description="padded tokens of a batch on one device")
    accumulation: int = Field(1, ge=1, description="batches an optimiser step")
    epochs: int = Field(2, ge=1)
    learning_rate: float = Field(1e-3, gt=0, description="peak, cosine to zero")
    warmup_share: float = Field(0.1, ge=0, le=1)
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="autocast dtype; trained weights stay float32")
    save_every: int = Field(200, ge=1, description="optimiser steps between checkpoints")
    seed: int = 0
