"""Settings of the red-team study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Self

from pydantic import Field, JsonValue, model_validator

from corral.core.config import Config
from corral.core.errors import CorralError, UserError
from corral.core.stats import REPLICATES
from corral.redteam.goals import LEFT_OUT
from corral.redteam.loading import check_attacker, check_guards_are_asked, check_judges
from corral.redteam.styles import choose_styles

STAND_IN: Final = "stand-in"
"""For a target, guard or goals: the scripted ones and harmless requests of ``stand_ins``."""


class GoalsConfig(Config):
    """Requests of one kind, from public sources."""

    sources: tuple[str, ...] = Field((), description="public sources or files, or `stand-in`")
    limit: int | None = Field(None, ge=1, description="requests that are drawn")


class AgreementConfig(Config):
    """Labelled replies that judges are measured on."""

    sets: tuple[str, ...] = Field(description="sets of `corral redteam judge`, or files")
    judges: Mapping[str, int | None] = Field(
        description="judge to the replies a set that it labels; null for all", min_length=1
    )


class RedteamStylesConfig(Config):
    """Settings of the recipe."""

    target: str = Field("embedded:smollm2-135m-instruct", description="model that answers, or `stand-in`")
    server: str | None = Field(None, description="OpenAI-compatible server that runs the target")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of a target that is loaded here")
    guard: str = Field("english", description="guard in front of the target, one that does not decode; or `stand-in`")
    guard_settings: Mapping[str, Mapping[str, JsonValue]] = Field(
        default_factory=dict, description="settings of guards, of those that judge too, by name"
    )
    judges: tuple[str, ...] = Field(("prefix-list", "guard:default"), min_length=1, description="first is the headline")
    judge_model: str | None = Field(None, description="model that the judges `yes-no` and `rubric` ask")
    judge_server: str | None = Field(None, description="OpenAI-compatible server that runs it")
    harmful: GoalsConfig
    benign: GoalsConfig = Field(default_factory=GoalsConfig)
    leave_out: tuple[str, ...] = Field(LEFT_OUT, description="words in the names of categories that are left out")
    capability: bool = Field(True, description="ask harmless questions with known answers in every style")
    styles: tuple[str, ...] = Field(("egida18",), description="presets and styles of the matrix")
    attacker: str | None = Field(None, description="model that writes prompts for `pair`, `tap` and `autodan_ga`")
    attacker_server: str | None = Field(None, description="OpenAI-compatible server that runs it")
    encodings: tuple[str, ...] = Field(
        ("encodings", "noise"), description="presets and styles of the matrix that the claim is about"
    )
    restarts: int = Field(1, ge=1)
    temperature: float = Field(0.0, ge=0)
    max_new_tokens: int = Field(24, ge=1, description="of an answer")
    batch_size: int = Field(16, ge=1)
    agreement: AgreementConfig | None = None
    toy: bool = Field(False, description="stand-ins: mark every claim as a toy")
    tried: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict, description="by claim, what was done about it in earlier runs, for one that does not hold"
    )
    replicates: int = Field(REPLICATES, ge=100, description="resamples of an interval")
    seed: int = 0

    @model_validator(mode="after")
    def _knows_its_styles(self) -> Self:
        for names in (self.styles, self.encodings):
            try:
                choose_styles(names)
            except UserError as error:
                raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _knows_its_judges(self) -> Self:
        asked = (*self.judges, *(() if self.agreement is None else self.agreement.judges))
        try:
            check_judges(asked, model=self.judge_model, guard_settings=self.guard_settings)
            check_attacker(self.attacker, self.attacker_server)
            check_guards_are_asked(self.guard_settings, asked, others=[self.guard])
        except CorralError as error:
            raise ValueError(str(error)) from error
        return self
