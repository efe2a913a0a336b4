"""Settings of the DuoGuard study: what the classifier learns from, and the generative guard beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import Field

from corral.core.config import Config
from corral.core.stats import REPLICATES
from corral.studies.drawing import SplitRowsConfig
from corral.train.guard.duoguard_settings import DuoGuardTrainingConfig
from corral.train.guard.prompted_settings import PromptedGuardConfig

ClaimId = Literal["log_sum_exp_vs_bce", "multi_label_head_vs_generative_speed"]
CLAIMS: Final[tuple[ClaimId, ...]] = ("log_sum_exp_vs_bce", "multi_label_head_vs_generative_speed")
TEMPLATED: Final = "templated"


class SpeedConfig(Config):
    """How the classifier and the generative guard are timed, in one process, by turns."""

    rows: int = Field(64, ge=2, description="held-out prompts")
    batch: int = Field(8, ge=1, description="prompts a call")
    repeats: int = Field(3, ge=1, description="times that each batch is judged by each guard; the fastest counts")


class DuoGuardConfig(Config):
    """Settings of the recipe."""

    data: Literal["public", "templated"] = Field("public", description="templated: invented categories, a toy")
    claims: tuple[ClaimId, ...] = CLAIMS
    training: DuoGuardTrainingConfig = Field(
        default_factory=DuoGuardTrainingConfig, description="of the classifier; each loss is trained with it"
    )
    generative: PromptedGuardConfig = Field(
        default_factory=PromptedGuardConfig, description="of the guard that writes its answer, on the same rows"
    )
    rows: SplitRowsConfig = Field(default_factory=SplitRowsConfig)
    sets: tuple[str, ...] = Field((), description="evaluation sets beside the held-out rows")
    set_rows: int | None = Field(200, ge=1, description="rows of each, at the most; null: all")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="of the classifiers")
    generative_seeds: int = Field(
        1, ge=1, description="seeds that the generative guard is trained with, from the first"
    )
    speed: SpeedConfig = Field(default_factory=SpeedConfig)
    scoring_batch: int = Field(32, ge=1, description="rows a call to a guard; scores reach the disk after each")
    scoring_dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="of the weights that are measured")
    keep_models: bool = Field(False, description="keep every trained model, not only the guard that is shown")
    tried: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict, description="by claim, what was done about it in earlier runs"
    )
    replicates: int = Field(REPLICATES, ge=100, description="resamples of an interval")
    seed: int = Field(0, description="of draws, splits and the bootstrap")

    @property
    def toy(self) -> bool:
        """Whether what it shows counts as a toy."""
        return self.data == TEMPLATED
