"""Settings of the Egida study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, Self, get_args

from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, model_serializer, model_validator

from corral.core.config import Config
from corral.core.errors import CorralError, UserError
from corral.core.stats import REPLICATES
from corral.models.tiny import TINY
from corral.redteam.egida.chosen import ChosenKind
from corral.redteam.loading import check_guards_are_asked, check_judges
from corral.redteam.styles import HELD_OUT, choose_styles
from corral.train.fine_tuning_settings import DpoConfig

ClaimId = Literal[
    "dpo_generalises_to_unseen_styles", "over_refusal_cost", "judge_agreement", "on_policy_vs_foreign_chosen"
]
CLAIMS: Final[tuple[ClaimId, ...]] = get_args(ClaimId)
STAND_IN: Final = "stand-in"


class RequestsConfig(Config):
    """Base requests and what they are put in."""

    sources: tuple[str, ...] = Field(min_length=1, description=f"of requests with categories, or `{STAND_IN}`")
    limit: int = Field(64, ge=4, description="base requests, drawn at random")
    benign: Mapping[str, int] = Field(default_factory=dict, description="source of harmless requests to the number")
    styles: tuple[str, ...] = Field(("egida18",), min_length=1, description="presets and styles; plain comes with them")
    held_out_styles: tuple[str, ...] = HELD_OUT
    held_out_topics: tuple[str, ...] = ()
    test_share: float = Field(0.25, ge=0, lt=1, description="of the clusters without a held-out topic, tested")

    @model_validator(mode="after")
    def _knows_its_styles(self) -> Self:
        try:
            known = {style.name for style in choose_styles(self.styles)[0]}
        except UserError as error:
            raise ValueError(str(error)) from error
        if unknown := [style for style in self.held_out_styles if style not in known]:
            raise ValueError(f"`held_out_styles` names `{unknown[0]}`, which is not among the styles")
        return self


class MiningConfig(Config):
    """How pairs are mined; prices are the user's."""

    judge: str = Field("guard:default", description=f"labels answers; as for `corral redteam run`, or `{STAND_IN}`")
    pairs: int = Field(2000, ge=1, description="budget")
    test_pairs: int = Field(64, ge=2, description="of the test side, on which margins are measured")
    samples: int = Field(1, ge=1, description="answers an instance")
    temperature: float = Field(0.0, ge=0)
    max_new_tokens: int = Field(256, ge=1)
    batch_size: int = Field(32, ge=1)
    pool: tuple[str, ...] = Field((), description="models of the pool, the preferred one first")
    hour_usd: float = Field(0.0, ge=0)
    million_judged_usd: float = Field(0.0, ge=0)
    stop_after_usd: float | None = Field(None, ge=0)


class AttackConfig(Config):
    """Attack success before and after: a secondary figure on so small a model."""

    requests: int = Field(12, ge=2, description="base requests of the test side, at the most")
    judges: tuple[str, ...] = Field(("prefix-list",), min_length=1, description="the first is the headline")
    max_new_tokens: int = Field(40, ge=1)
    batch_size: int = Field(32, ge=1)


class AgreementConfig(Config):
    """Judges against people."""

    judges: Mapping[str, int | None] = Field(min_length=1, description="judge to the number of replies, null for all")
    sets: tuple[str, ...] = Field(min_length=1, description="labelled sets, as `corral redteam judge --on`")
    least_kappa: float = Field(
        0.2, gt=0, lt=1, description="of the judge that labels pairs, by the interval's lower end"
    )


class ParetoConfig(Config):
    """What trainings of other strength cost and gain: each point is a learning rate with a number of pairs."""

    learning_rates: tuple[float, ...] = Field(min_length=1, description="of preference training")
    pairs: tuple[int, ...] = Field((), description="numbers of pairs, each a part of the next; all of them if empty")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="of trainings")
    ability: tuple[Literal["perplexity", "multiple_choice"], ...] = Field(
        (), description="tasks of the scorecard, beside the two axes"
    )
    ability_limit: int | None = Field(None, ge=1, description="items of each")

    @model_validator(mode="after")
    def _has_sensible_points(self) -> Self:
        if any(rate <= 0 for rate in self.learning_rates) or any(number < 2 for number in self.pairs):
            raise ValueError("`pareto` takes learning rates above 0, and pairs from 2 on")
        return self


class EgidaConfig(Config):
    """Settings of the recipe."""

    target: str = Field("embedded:aligned-smollm2", description=f"model to train, or `{TINY}`")
    dtype: str = Field("float32", description="in which it answers and is scored")
    requests: RequestsConfig
    mining: MiningConfig = Field(default_factory=MiningConfig)
    guard_settings: Mapping[str, Mapping[str, JsonValue]] = Field(
        default_factory=dict, description="settings of the guards that judge, by name"
    )
    chosen: tuple[ChosenKind, ...] = Field(("gold", "self_safe"), min_length=1, description="the first is the headline")
    dpo: DpoConfig = Field(default_factory=DpoConfig)
    attack: AttackConfig | None = None
    agreement: AgreementConfig | None = None
    pareto: ParetoConfig | None = None
    most_over_refusal: float = Field(0.1, gt=0, lt=1, description="rise that is called none")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="of trainings")
    toy: bool = Field(False, description="a random model and stand-ins: mark every claim as a toy")
    tried: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict, description="by claim, what was done about it in earlier runs, for one that does not hold"
    )
    replicates: int = Field(REPLICATES, ge=100, description="resamples of an interval")
    seed: int = Field(0, description="of draws and the bootstrap")

    @model_serializer(mode="wrap")
    def _without_what_is_not_asked_for(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A run without a front is known by the same hash as before there was one."""
        values: dict[str, Any] = write(self)
        if values["pareto"] is None:
            del values["pareto"]
        return values

    @model_validator(mode="after")
    def _attacks_what_it_compares(self) -> Self:
        if self.pareto is not None and self.attack is None:
            raise ValueError("`pareto` compares attack success, and `attack` is not set")
        return self

    @model_validator(mode="after")
    def _has_a_pool_if_it_needs_one(self) -> Self:
        if "pool" in self.chosen and not self.mining.pool:
            raise ValueError("`chosen` names the pool, and `mining.pool` has no model")
        return self

    @model_validator(mode="after")
    def _knows_its_judges(self) -> Self:
        agreement = () if self.agreement is None else tuple(self.agreement.judges)
        if agreement and agreement[0] != self.mining.judge:
            raise ValueError(f"`agreement.judges` begins with the judge of the pairs, `{self.mining.judge}`")
        asked = (self.mining.judge, *agreement, *(() if self.attack is None else self.attack.judges))
        try:
            check_judges([name for name in asked if name != STAND_IN], guard_settings=self.guard_settings)
            check_guards_are_asked(self.guard_settings, asked)
        except CorralError as error:
            raise ValueError(str(error)) from error
        return self
