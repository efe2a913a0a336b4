"""How a language model is trained to judge in words: settings alone, so reading a recipe needs no training library.

Defaults are for SmolLM2 on two cores; published values are in the ``paper`` profiles of the recipes that train with it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from corral.core.config import Config
from corral.guards.prompted.framing import FrameName
from corral.train.lora_targets import LINEARS, LinearName


class PromptedGuardConfig(Config):
    """How a guard that reads its question in the prompt is trained; the data is another matter."""

    base: str = Field("embedded:smollm2-135m-instruct", description="Llama-family base model")
    layers: int | None = Field(
        None, ge=1, description="lower decoder layers to keep, norm and head with them; null: all"
    )
    first_trained_layer: int = Field(15, ge=0, description="layers below this one stay as they are")
    rank: int = Field(16, ge=1, description="LoRA rank on the targets of the trained layers")
    alpha: int = Field(32, ge=1, description="LoRA alpha")
    targets: tuple[LinearName, ...] = Field(LINEARS, min_length=1, description="Linears that LoRA is put on")
    full: bool = Field(
        False, description="train the layers' own weights and the final norm; from layer 0, embeddings and head as well"
    )
    frame: FrameName = Field("chat", description="chat format around the prompt")
    max_message_tokens: int = Field(
        96, ge=8, description="longer messages keep their first tokens (`shorten_messages`, before rows are written)"
    )
    batch_tokens: int = Field(1024, ge=64, description="tokens of one packed sequence, at most")
    accumulation: int = Field(1, ge=1, description="packed sequences an optimiser step")
    epochs: int = Field(1, ge=1)
    learning_rate: float = Field(5e-4, gt=0, description="peak")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field("cosine", description="after the warm-up")
    warmup_share: float = Field(0.05, ge=0, le=1)
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="autocast dtype; trained weights stay float32")
    save_every: int = Field(100, ge=1, description="optimiser steps between checkpoints")
    seed: int = 0
