"""Settings of the Llama Guard study: what is trained on what, and what is measured on what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from corral.core.config import Config
from corral.core.stats import REPLICATES
from corral.data.mixture import MixtureEntry
from corral.evals.tasks.adaptation import SHARES
from corral.train.guard.augmentation import AugmentationConfig
from corral.train.guard.prompted_settings import PromptedGuardConfig

ClaimId = Literal[
    "augmentation_makes_policy_matter",
    "adaptation_ladder",
    "category_one_vs_all",
    "small_training_beats_baselines",
]
CLAIMS: Final[tuple[ClaimId, ...]] = (
    "augmentation_makes_policy_matter",
    "adaptation_ladder",
    "category_one_vs_all",
    "small_training_beats_baselines",
)
AUGMENTED: Final = "augmented"
"""The arm whose guard is shown, adapted and written to the artefacts."""
PLAIN: Final = "plain"


class RowsConfig(Config):
    """Training rows and the rows held out from them; a group of rows is on one side."""

    mixture: tuple[MixtureEntry, ...] = Field((), description="sources of `train_and_ship` rows")
    keep_clean_of: tuple[str, ...] = Field((), description="evaluation sources whose texts are left out")
    single_turn: bool = Field(False, description="leave out rows with turns before the prompt, which make rows long")
    held_out: float = Field(0.25, gt=0, lt=1, description="share of groups held out")
    each_category: int = Field(80, ge=1, description="harmful training rows of a category, at the most")
    no_category: int = Field(
        0, ge=0, description="harmful training rows whose category is not known: their answer ends at `unsafe`"
    )
    benign: int = Field(400, ge=1, description="benign training rows, at the most")
    held_out_each_category: int = Field(20, ge=1, description="harmful held-out rows of a category, at the most")
    held_out_benign: int = Field(100, ge=1, description="benign held-out rows, at the most")


class LadderConfig(Config):
    """The data set that the guard is adapted to, half of it to learn from and half to measure on."""

    source: str = "openai_moderation"
    taxonomy: str = "openai_moderation"
    labels: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="category to the upstream columns that mean it: the first rules it in or out, the others are parts "
        "of it and rule it in",
    )
    no_examples_of: tuple[str, ...] = Field((), description="a row with one of these columns is no example in a prompt")
    train_rows: int = Field(400, ge=1, description="of the training half, at the most: what 100 % means")
    test_rows: int = Field(300, ge=1, description="of the test half, at the most")
    shares: tuple[float, ...] = Field(SHARES, min_length=1, description="of the training rows, smallest first")
    examples: int = Field(2, ge=2, le=4, description="of each category in the few-shot prompt")
    example_chars: int = Field(200, ge=1, description="longest example")
    learning_rate: float | None = Field(None, gt=0, description="of fine-tuning; null: as the training")
    epochs: int | None = Field(None, ge=1, description="of fine-tuning; null: as the training")

    @model_validator(mode="after")
    def _shares_rise(self) -> Self:
        if list(self.shares) != sorted(set(self.shares)) or not 0 < self.shares[0] <= self.shares[-1] <= 1:
            raise ValueError("the shares must rise within 0 to 1")
        return self


class CategoryConfig(Config):
    """What is asked one category at a time, on the test half of the target."""

    codes: tuple[str, ...] = Field((), description="qualified codes that the rows have labels for")


class StudyConfig(Config):
    """One data set with its trainings and claims."""

    data: Literal["public", "templated"] = Field("public", description="templated: invented categories, a toy")
    claims: tuple[ClaimId, ...] = CLAIMS
    generation: str = Field("3", description="layout of the prompt")
    taxonomy: str = Field("llama_guard_3", description="of the guard's policy; labels of rows are mapped to it")
    policy: tuple[str, ...] = Field((), description="codes of the taxonomy in the policy, in order")
    detail: Literal["names", "descriptions"] = Field("names", description="what the prompt says of a category")
    training: PromptedGuardConfig = Field(default_factory=PromptedGuardConfig)
    tiny_layers: int = Field(3, ge=1, description="of the tiny random base, where `training.base` is `tiny:random`")
    tiny_hidden_size: int = Field(32, ge=8, description="of the same; a multiple of 8")
    tiny_weight_std: float = Field(0.02, gt=0, description="of the same: standard deviation of its random weights")
    arms: Mapping[str, AugmentationConfig] = Field(
        default_factory=lambda: {AUGMENTED: AugmentationConfig(mode="paper"), PLAIN: AugmentationConfig(mode="none")}
    )
    warm_up: AugmentationConfig | None = Field(
        None, description="what both arms learn first, in one training a seed (a curriculum); null: nothing"
    )
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="of every training")
    rows: RowsConfig = Field(default_factory=RowsConfig)
    shuffles: int = Field(2, ge=1, description="orders of the policy in which codes are read")
    ladder: LadderConfig = Field(default_factory=LadderConfig)
    categories: CategoryConfig = Field(default_factory=CategoryConfig)
    sets: tuple[str, ...] = Field((), description="evaluation sets beside the test half of the target")
    set_rows: int | None = Field(300, ge=1, description="rows of each, at the most; null: all")
    scoring_batch: int = Field(32, ge=1, description="rows a call to a guard; scores reach the disk after each")
    scoring_dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="of the weights that are measured")
    replicates: int = Field(REPLICATES, ge=100, description="resamples of an interval")
    seed: int = Field(0, description="of draws, splits and the bootstrap")

    @model_validator(mode="after")
    def _has_both_arms(self) -> Self:
        if set(self.arms) != {AUGMENTED, PLAIN}:
            raise ValueError(f"the arms are `{AUGMENTED}` and `{PLAIN}`")
        return self

    @property
    def toy(self) -> bool:
        """Whether what it shows counts as a toy."""
        return self.data == "templated"


class LlamaGuardConfig(StudyConfig):
    """Settings of the recipe."""

    mechanism: StudyConfig | None = Field(
        None, description="a study on templated text beside it, whose claims are marked as a toy"
    )
    tried: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict, description="by claim, what was done about it in earlier runs"
    )
    keep_models: bool = Field(False, description="keep every trained model, not only the guard that is shown")
