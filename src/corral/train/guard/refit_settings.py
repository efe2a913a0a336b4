"""How heads are trained anew on a frozen trunk: settings alone, so that reading a recipe needs no training library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from corral.core.config import Config


class HeadRefitConfig(Config):
    """How heads are trained on token states that were computed once."""

    batch_tokens: int = Field(4096, ge=64, description="padded tokens of one optimiser step on one device")
    accumulation: int = Field(1, ge=1, description="micro-batches an optimiser step")
    epochs: int = Field(6, ge=1)
    learning_rate: float = Field(3e-3, gt=0, description="peak, cosine to zero")
    warmup_share: float = Field(0.05, ge=0, le=1)
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    precision: Literal["bf16", "fp32"] = Field("fp32", description="heads compute in float32 either way")
    save_every: int = Field(50, ge=1, description="optimiser steps between checkpoints")
    seed: int = 0
