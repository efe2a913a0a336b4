"""Settings of the WildGuard study: what is trained on, what is left out in which arm, what it is tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from corral.core.config import Config
from corral.core.stats import REPLICATES
from corral.data.mixture import MixtureEntry
from corral.train.guard.prompted_settings import PromptedGuardConfig

Part = Literal["vanilla", "in_the_wild", "annotator_written", "adversarial_harmful", "adversarial_benign"]
Task = Literal["prompt", "refusal", "response"]
ModeratorMode = Literal["prompt", "response", "both"]

TASKS: Final[tuple[Task, ...]] = ("prompt", "refusal", "response")
FULL: Final = "all"
"""The arm that leaves nothing out."""
WITHOUT_ADVERSARIAL: Final = "no_adversarial"
WITHOUT_ADVERSARIAL_BENIGN: Final = "no_adversarial_benign"


class StudyEntry(MixtureEntry):
    """Training rows of one source, and which part of the mixture they are."""

    part: Part = Field("vanilla", description="what an arm or a switch leaves them out by, beside the source's name")


class TacticConfig(Config):
    """Training prompts that are put into adversarial form, beside their plain form."""

    file: Path | None = Field(None, description="tactics of the user's; the packaged ones when null")
    harmful: int = Field(100, ge=0, description="harmful prompts of the mixture that are wrapped")
    benign: int = Field(100, ge=0, description="benign prompts of the mixture that are wrapped")
    prompt_chars: int = Field(200, ge=1, description="longer prompts are not wrapped")
    max_chars: int = Field(450, ge=1, description="a longer composition is drawn anew, so that training cuts none")
    held_out: float = Field(0.3, gt=0, lt=1, description="share of tactic families kept for the test")


class HeldOutConfig(Config):
    """Held-out rows: of other goals (groups) than training, and for wrapped ones in other wrappers."""

    groups: float = Field(0.2, ge=0, lt=1, description="share of groups of every training source that is held out")
    goals_of: tuple[MixtureEntry, ...] = Field(
        (), description="rows too rare to be split: all their goals are held out"
    )
    wrappers: float = Field(0.3, gt=0, lt=1, description="share of wrappers of wrapped sources that is held out")
    vanilla: tuple[MixtureEntry, ...] = Field(description="prompts; the wrapped test holds the same in tactics")
    wrapped: tuple[MixtureEntry, ...] = Field((), description="prompts in held-out wrappers of a wrapped source")
    refusals: tuple[MixtureEntry, ...] = Field(
        description="replies to risky prompts, with an `action` as do_not_answer"
    )
    benign_refusals: tuple[MixtureEntry, ...] = Field(description="replies to benign prompts")
    stock_refusals: tuple[MixtureEntry, ...] = Field(
        (), description="replies whose label rests on refusal phrases: shown, in no claim"
    )
    responses: tuple[MixtureEntry, ...] = Field(description="replies with a harm label")


class ModeratorConfig(Config):
    """The guard in front of and behind a target model."""

    target: str = Field("embedded:smollm2-135m-instruct", description="model that answers")
    harmful: tuple[MixtureEntry, ...]
    benign: tuple[MixtureEntry, ...]
    wrapped_share: float = Field(0.5, ge=0, le=1, description="share of either that is put into held-out tactics")
    max_new_tokens: int = Field(48, ge=1, description="of a reply, greedy")
    modes: tuple[ModeratorMode, ...] = ("prompt", "both")
    default_guard: bool = Field(True, description="measure the shipped default guard beside WildGuard")


class PublicConfig(Config):
    """The public sets of the paper's table, for the report."""

    sets: tuple[str, ...] = ("toxicchat", "openai_moderation", "aegis_test", "harmbench_prompts", "beavertails")
    limit: int | None = Field(None, ge=1, description="rows a set; a sample is not comparable with published figures")


class WildGuardConfig(Config):
    """Settings of the recipe."""

    training: PromptedGuardConfig = Field(default_factory=PromptedGuardConfig)
    mixture: tuple[StudyEntry, ...]
    share: float = Field(
        1.0, gt=0, le=1, description="of all rows that would be drawn: a smaller study of the same make"
    )
    use: Mapping[str, bool] = Field(
        default_factory=dict, description="false leaves a source, or a part of the mixture, out of every arm"
    )
    tactics: TacticConfig = Field(default_factory=TacticConfig)
    held_out: HeldOutConfig
    keep_clean_of: tuple[str, ...] = Field((), description="evaluation sources whose texts are left out of training")
    arms: Mapping[str, tuple[str, ...]] = Field(
        default_factory=lambda: {
            FULL: (),
            WITHOUT_ADVERSARIAL: ("adversarial_harmful", "adversarial_benign"),
            WITHOUT_ADVERSARIAL_BENIGN: ("adversarial_benign",),
        },
        description="trainings, each with the sources and parts that it leaves out",
    )
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="of every training")
    single_tasks: bool = Field(True, description="train a model for each task alone beside the one for all three")
    scoring_batch: int = Field(64, ge=1, description="rows a call to a guard; scores reach the disk after each")
    scoring_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    moderator: ModeratorConfig | None = None
    public: PublicConfig | None = None
    keep_models: bool = Field(False, description="keep the models of all trainings, not only the guard that is shown")
    toy: bool = Field(False, description="templated text on a tiny model: mark every claim as a toy")
    tried: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict, description="by claim, what was done about it in earlier runs"
    )
    replicates: int = Field(REPLICATES, ge=100, description="resamples of an interval")
    seed: int = Field(0, description="of the draw of rows, splits and tactics, and of the bootstrap")

    @model_validator(mode="after")
    def _names_what_there_is(self) -> Self:
        known = {name for entry in self.mixture for name in (entry.source, entry.part)}
        known |= {"adversarial_harmful", "adversarial_benign"}
        named = {name for left_out in self.arms.values() for name in left_out} | set(self.use)
        if unknown := sorted(named - known):
            raise ValueError(f"`{unknown[0]}` is neither a source nor a part of the mixture")
        if self.arms.get(FULL) != ():
            raise ValueError(f"the arm `{FULL}` must be there and leave nothing out")
        return self

    def switched_off(self, names: Sequence[str]) -> bool:
        """Whether one of these sources or parts is switched off."""
        return any(not self.use.get(name, True) for name in names)
