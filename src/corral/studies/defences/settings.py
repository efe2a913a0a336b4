"""Settings of the table of defences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from corral.core.config import Config
from corral.core.errors import CorralError, UserError
from corral.core.stats import REPLICATES
from corral.guards.loading import GUARDS, check_settings
from corral.redteam.loading import check_guards_are_asked, check_judges
from corral.redteam.styles import PLAIN, choose_styles

STAND_IN: Final = "stand-in"
"""For requests: the harmless ones of ``studies/redteam_styles/stand_ins``."""
MODEL_GUARDS: Final = ("perplexity-filter", "self-examination")
"""Guards that ask the guarded model itself; every other is loaded by its name."""
Defence = Literal["self-reminder", "in-context-refusal", "paraphrase", "retokenised", "safe-decoding"]


class TrainedConfig(Config):
    """A model that a recipe trained, in the newest finished run of it beside this one."""

    recipe: str = Field(pattern=r"^\w+/\w+$", description="SYSTEM/PROFILE")
    training: str = Field(min_length=1, description="as the run names it: ARM-SEED, or SOURCE-SEED of egida")


class SystemConfig(Config):
    """One system: a model, at most one defence around it, at most one guard over its answers."""

    name: str = Field(min_length=1, description="as the table prints it; of a guarded one, `NAME + GUARD` is printed")
    model: str | None = Field(None, description="hub id, folder (of a training too) or embedded:NAME; default: `base`")
    trained: TrainedConfig | None = Field(None, description="in the place of `model`")
    defence: Defence | None = None
    expert: str | None = Field(None, description="of safe-decoding: the same model, tuned to refuse")
    guard: str | None = Field(None, description="guard, `perplexity-filter` or `self-examination`")

    @model_validator(mode="after")
    def _has_its_expert(self) -> Self:
        if (self.defence == "safe-decoding") != (self.expert is not None):
            raise ValueError("`safe-decoding` needs an `expert`, and nothing else has one")
        if self.model is not None and self.trained is not None:
            raise ValueError("a system has a `model` or a `trained` one")
        return self


class RequestsConfig(Config):
    """Requests of one kind."""

    sources: tuple[str, ...] = Field((), description=f"public sources or files, or `{STAND_IN}`")
    limit: int | None = Field(None, ge=1)


class QuestionsConfig(Config):
    """What every system of a table is asked, and what is measured of it."""

    harmful: RequestsConfig = Field(default_factory=RequestsConfig)
    benign: RequestsConfig = Field(default_factory=RequestsConfig)
    styles: tuple[str, ...] = Field(("prefix_injection",), min_length=1, description="beside the plain request")
    attacker: str | None = Field(None, description="model that writes prompts for `pair`, `tap` and `autodan_ga`")
    judges: tuple[str, ...] = Field(("prefix-list", "guard:default"), min_length=1, description="first is the headline")
    guard_settings: Mapping[str, Mapping[str, JsonValue]] = Field(
        default_factory=dict, description="settings of guards, of those that judge too, by name"
    )
    capability: bool = Field(True, description="ask harmless questions with known answers in every style")
    max_new_tokens: int = Field(32, ge=1)
    batch_size: int = Field(32, ge=1)
    ability: tuple[str, ...] = Field((), description="tasks of the scorecard: perplexity, multiple_choice")
    ability_limit: int | None = Field(None, ge=1, description="items of each such task")
    timed: int = Field(4, ge=1, description="prompts that time is measured on")

    @field_validator("styles")
    @classmethod
    def _are_known(cls, styles: tuple[str, ...]) -> tuple[str, ...]:
        try:
            choose_styles([PLAIN, *styles])
        except UserError as error:
            raise ValueError(str(error)) from error
        return styles

    @model_validator(mode="after")
    def _knows_its_judges(self) -> Self:
        try:
            check_judges(self.judges, guard_settings=self.guard_settings)
        except CorralError as error:
            raise ValueError(str(error)) from error
        return self


class DefencesStudyConfig(QuestionsConfig):
    """Settings of the recipe."""

    base: str = Field("embedded:smollm2-135m-instruct", description="model of systems that name none")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    systems: tuple[SystemConfig, ...] = Field(min_length=2, description="the first is what others are compared with")
    harmful: RequestsConfig
    benign: RequestsConfig
    claimed: str | None = Field(None, description="the system that the claim is about, by its printed name")
    calibration: RequestsConfig = Field(
        default_factory=RequestsConfig,
        description="ordinary prompts of the perplexity filter's threshold; 1 % may pass it",
    )
    most_over_refusal: float = Field(0.1, gt=0, lt=1, description="rise over the first system that is called small")
    toy: bool = Field(False, description="stand-ins: mark the claim as a toy")
    tried: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict, description="by claim, what was done about it in earlier runs, for one that does not hold"
    )
    replicates: int = Field(REPLICATES, ge=100, description="resamples of an interval")
    seed: int = 0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [self.printed(each) for each in self.systems]
        if len(set(names)) < len(names):
            raise ValueError(f"two systems are printed as `{next(each for each in names if names.count(each) > 1)}`")
        if self.claimed is not None and self.claimed not in names[1:]:
            raise ValueError(f"`claimed` is `{self.claimed}`, which is none of {', '.join(names[1:])}")
        if self.systems[0].guard is not None:
            raise ValueError("the first system, which others are compared with, has no guard")
        for each in self.systems:
            same = [one for one in self.systems if one.name == each.name]
            if any(one.model_copy(update={"guard": None}) != each.model_copy(update={"guard": None}) for one in same):
                raise ValueError(f"systems named `{each.name}` have other models or defences")
        if any(each.guard == "perplexity-filter" for each in self.systems) and not self.calibration.sources:
            raise ValueError("`perplexity-filter` needs `calibration.sources`")
        return self

    @model_validator(mode="after")
    def _knows_its_guards(self) -> Self:
        named = {each.guard for each in self.systems if each.guard is not None}
        try:
            for name in sorted(named - {*MODEL_GUARDS}):
                check_settings(name, GUARDS.get(name), self.guard_settings.get(name, {}))
            check_guards_are_asked(self.guard_settings, self.judges, others=named)
        except CorralError as error:
            raise ValueError(str(error)) from error
        return self

    def model_of(self, system: SystemConfig) -> str:
        """The model of a system."""
        return system.model or self.base

    @staticmethod
    def printed(system: SystemConfig) -> str:
        """A system's name in the table."""
        return system.name if system.guard is None else f"{system.name} + {system.guard}"

    def targets(self) -> Iterator[tuple[SystemConfig, tuple[str, ...]]]:
        """Systems of one name once, with all of their guards."""
        for name in dict.fromkeys(each.name for each in self.systems):
            same = [each for each in self.systems if each.name == name]
            yield same[0], tuple(each.guard for each in same if each.guard is not None)
