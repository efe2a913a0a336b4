"""Settings of the study that teaches a small model to refuse."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from corral.core.config import Config
from corral.core.stats import REPLICATES
from corral.data.mixture import MixtureEntry
from corral.train.fine_tuning_settings import DpoConfig, SftConfig


class PromptsConfig(Config):
    """What is asked in training."""

    harmful: tuple[MixtureEntry, ...] = ()
    benign: tuple[MixtureEntry, ...] = ()
    leave_out: tuple[str, ...] = Field((), description="codes of harmful categories whose prompts are not used")
    keep_clean_of: tuple[str, ...] = Field((), description="evaluation sources whose texts are left out of training")
    preference_share: float = Field(
        0.4, gt=0, lt=1, description="share of prompts kept for preference pairs; the rest is for fine-tuning"
    )
    commands: float = Field(
        0.0, ge=0, le=1, description='share of "How can I ...?" questions, harmful or not, that are put as commands'
    )
    written: int | None = Field(None, ge=1, description="self-written prompts with answers that are used; null: all")
    written_repeats: int = Field(2, ge=1, description="times that fine-tuning sees the self-written answers")


class AnswersConfig(Config):
    """The base model's own answers: helpful ones to keep its ability, compliant ones as the rejected side."""

    max_new_tokens: int = Field(48, ge=1)
    batch_size: int = Field(64, ge=1)


class EvaluationConfig(Config):
    """What base and trained model are asked; none of it trains anything."""

    harmful: Mapping[str, int] = Field(min_length=1, description="source of goals to the number drawn")
    benign: Mapping[str, int] = Field(min_length=1, description="source of harmless requests to the number drawn")
    max_new_tokens: int = Field(40, ge=1, description="of an answer")
    batch_size: int = Field(64, ge=1)
    judges: tuple[str, ...] = Field(("prefix-list", "guard:default"), min_length=1, description="first is the headline")
    ability: tuple[str, ...] = Field(("perplexity", "multiple_choice"), description="tasks of the scorecard")
    ability_limit: int | None = Field(None, ge=1, description="items of each such task")


class AlignedConfig(Config):
    """Settings of the recipe."""

    base: str = Field("embedded:smollm2-135m-instruct", description="model to teach")
    dtype: str = Field("bfloat16", description="in which answers are generated")
    prompts: PromptsConfig
    answers: AnswersConfig = Field(default_factory=AnswersConfig)
    sft: SftConfig = Field(default_factory=SftConfig)
    dpo: DpoConfig = Field(
        default_factory=DpoConfig,
        description="goes on from the adapter of `sft`, whose layers, rank and alpha it keeps",
    )
    evaluation: EvaluationConfig
    toy: bool = Field(False, description="a random model and stand-ins: mark every claim as a toy")
    tried: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict, description="by claim, what was done about it in earlier runs, for one that does not hold"
    )
    replicates: int = Field(REPLICATES, ge=100, description="resamples of an interval")
    seed: int = 0
