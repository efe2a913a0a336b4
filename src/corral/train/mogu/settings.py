"""How MoGU is trained: settings alone, so that reading a recipe needs no training library.

Defaults are for SmolLM2 on two cores; published values are in the ``paper`` profile of the recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from corral.core.config import Config


class StageConfig(Config):
    """Optimisation of one stage."""

    epochs: int = Field(1, ge=1)
    learning_rate: float = Field(5e-5, gt=0, description="peak")
    batch_tokens: int = Field(
        1024, ge=8, description="padded tokens of one batch, at most; both answers of a pair count"
    )
    batch_rows: int | None = Field(None, ge=1, description="rows of one batch, at most; null for no limit")
    accumulation: int = Field(1, ge=1, description="batches an optimiser step")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field("linear", description="after the warm-up")
    warmup_share: float = Field(0.0, ge=0, le=1)
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    precision: Literal["bf16", "fp32"] = Field("fp32", description="autocast dtype; trained weights stay float32")
    save_every: int = Field(5, ge=1, description="optimiser steps between checkpoints, of which the best is taken")


class SeededStage(StageConfig):
    """A stage in one training, whose seed is that of the whole."""

    seed: int = 0


class ExpertsConfig(Config):
    """Shape of the experts."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(16, gt=0, description="scale of an expert is alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="of an expert's input while it trains")


class GladConfig(Config):
    """The eager expert. A trained one complies more readily: it is detachable, and off by default."""

    mode: Literal["base", "trained"] = Field("base", description="base: the model itself takes the expert's place")
    pairs: Path | None = Field(
        None, description="of `trained`: the user's own file of benign instructions with answers"
    )
    stage: StageConfig = Field(default_factory=StageConfig)

    @model_validator(mode="after")
    def _has_its_data(self) -> Self:
        if (self.mode == "trained") != (self.pairs is not None):
            raise ValueError("`mode: trained` and `pairs: FILE` go together")
        return self


class RatioConfig(Config):
    """The loss of the experts."""

    denominator_cap: float | None = Field(
        None, gt=0, description="nats a token above which the avoided answer's likelihood is pushed no further"
    )


class RouterConfig(Config):
    """The routers and their stage."""

    form: Literal["faithful", "collapsed"] = Field("faithful", description="faithful: three Linears, as published")
    width: int = Field(512, ge=1, description="of a faithful router")
    weight: float = Field(2.0, ge=0, description="of the gate penalty beside the cross-entropy (lambda)")
    penalty: Literal["l2", "l1"] = Field("l2", description="l2: as the released code; l1: the absolute difference")
    layers: Literal["all", "auto"] | tuple[int, ...] = Field(
        "all", description="that are gated; auto: those whose attention separates the training prompts best"
    )
    auto_share: float = Field(0.5, gt=0, le=1, description="of the layers, for `layers: auto`")
    stage: StageConfig = Field(default_factory=lambda: StageConfig(learning_rate=5e-4))


class MoguConfig(Config):
    """Settings of the three stages."""

    max_tokens: int = Field(192, ge=8, description="longer rows lose the end of their answer")
    experts: ExpertsConfig = Field(default_factory=ExpertsConfig)
    ratio: RatioConfig = Field(default_factory=RatioConfig)
    glad: GladConfig = Field(default_factory=GladConfig)
    unwill: StageConfig = Field(default_factory=StageConfig)
    router: RouterConfig = Field(default_factory=RouterConfig)
    first_tokens: int = Field(5, ge=1, description="of an answer that the gated model writes")
    seed: int = 0
