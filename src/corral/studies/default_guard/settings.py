"""Settings of the default guard's recipe."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from corral.core.config import Config
from corral.data.mixture import MixtureEntry
from corral.studies.attack_rows import AttackRowsConfig
from corral.studies.default_guard.refit import HeadRefit
from corral.train.guard.classifier_settings import GuardTrainingConfig


class FurtherStage(Config):
    """Training that goes on from the stage before, on a new draw of the mixture and rows beside it.

    Groups that one stage held out stay held out, so calibration sees rows that no stage has learnt from.
    """

    share: float = Field(0.25, gt=0, le=1, description="share of the first stage's mixture that is drawn anew")
    mixture: tuple[MixtureEntry, ...] = Field((), description="rows beside it, all of them")
    keep_clean_of: tuple[str, ...] = Field((), description="as in the first stage; empty: as in the stage before")
    attacks: AttackRowsConfig | None = Field(None, description="rows asked again in attack styles; null: none")
    learning_rate: float = Field(5e-4, gt=0, description="peak")
    trained_share: float = Field(
        1.0, gt=0, le=1, description="of its weights in the average with those of the stage before; 1: none (WiSE-FT)"
    )
    draw_seed: int = Field(1, description="of the draw; the split keeps the recipe's seed")


class DefaultGuardConfig(Config):
    """Settings of the recipe."""

    training: GuardTrainingConfig = Field(default_factory=GuardTrainingConfig)
    mixture: tuple[MixtureEntry, ...]
    share: float = Field(1.0, gt=0, le=1, description="share of the mixture that is drawn, the same of every entry")
    keep_clean_of: tuple[str, ...] = Field((), description="evaluation sources whose texts are left out of training")
    further: tuple[FurtherStage, ...] = Field(
        (), description="trainings that go on from there; with `training.start_from`, only the last is done, from there"
    )
    refit: tuple[HeadRefit, ...] = Field(
        (), description="heads trained anew on the trunk of the last stage, one refit after the other, or a single one"
    )
    unreported: tuple[str, ...] = Field(
        (), description="qualified codes of categories that the guard has an output for and that no verdict names"
    )
    held_out: float = Field(0.04, gt=0, lt=1, description="share of groups for calibration")
    max_fpr: Mapping[str, float] = Field(
        default_factory=dict, description="largest false-positive rate on the development split at 0.5, by head"
    )
    window: int = Field(384, ge=32)
    overlap: int = Field(96, ge=0)
    seed: int = 0

    @field_validator("refit", mode="before")
    @classmethod
    def _one_or_several(cls, refit: object) -> object:
        return () if refit is None else (refit,) if isinstance(refit, Mapping) else refit

    @field_validator("refit")
    @classmethod
    def _first_may_start(cls, refit: tuple[HeadRefit, ...]) -> tuple[HeadRefit, ...]:
        if any(each.start_from is not None for each in refit[1:]):
            raise ValueError("a refit goes on from the one before; only the first has `start_from`")
        return refit

    @property
    def last(self) -> FurtherStage | None:
        """The last stage; ``None`` where the first is the only one."""
        return self.further[-1] if self.further else None

    def up_to(self, stage: int) -> DefaultGuardConfig:
        """Settings whose last stage is that one; 0 is the first."""
        return self.model_copy(update={"further": self.further[:stage]})
