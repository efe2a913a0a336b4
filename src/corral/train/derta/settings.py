"""How a chat model is trained with DeRTa: settings alone, so that reading a recipe needs no training library.

Defaults are the released code's where it says something, else those of ``FineTuningConfig``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from corral.core.config import Config
from corral.train.fine_tuning_settings import FineTuningConfig, PreferenceStageConfig
from corral.train.objectives.refusal import Variant

Arm = Literal["derta", "vanilla", "recaug", "rto_only", "dpo"]
Template = Literal["chat", "released"]
RELEASED_FULL_KEEP_RATE: Final = 0.05
"""Share of the places that the released code keeps where it trains all weights; with LoRA it keeps all."""


class RefusalWordConfig(Config):
    """What a harmful answer is to turn to."""

    word: str = Field("Sorry", min_length=1)
    variant: Variant = Field("bare", description="as an answer's first word, or as one after a space")


class PrefixConfig(Config):
    """The harmful prefix that a safe answer follows."""

    granularity: Literal["word", "token"] = Field(
        "word", description="cut after 1 to n-2 words, as released, or after 0 to n tokens, as the paper's equation"
    )
    p_zero: float = Field(
        1 / 3, ge=0, le=1, description="share of rows without a prefix; by tokens 0 unless set, for k may be 0 there"
    )
    zero_by: Literal["index", "random"] = Field("index", description="which rows: every so-manieth, or drawn")

    @model_validator(mode="before")
    @classmethod
    def _none_beside_the_papers_equation(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("granularity") == "token":
            return {"p_zero": 0.0, **given}
        return given


class TransitionConfig(Config):
    """Reinforced transition optimisation: the refusal token as the label at every place of a harmful answer."""

    keep_rate: float = Field(
        1.0, gt=0, le=1, description="share of places kept; unless set 1.0 with LoRA and 0.05 with `full`, as released"
    )
    keep_over: Literal["response", "padded_row"] = Field(
        "response", description="of what: the answer's places, or, as released, all places of the padded row"
    )
    include_eos: bool = Field(True, description="the place of the answer's end is one, as released; the paper has none")
    weight: float = Field(
        1.0, ge=0, description="of these losses; 1 leaves it to their share of the tokens, as released"
    )


class DertaConfig(FineTuningConfig):
    """Decoupled refusal training and the arms that it is compared with.

    Every arm but ``dpo`` makes two safety rows of a triple, so that all see as many: ``vanilla`` the safe answer twice,
    ``recaug`` twice after a harmful prefix, ``rto_only`` once plain and once as transition, ``derta`` once after a
    prefix and once as transition. ``dpo`` is ``vanilla`` and then preference pairs.
    """

    arm: Arm = "derta"
    template: Template = Field(
        "chat", description="the model's own chat template, or the released code's literal `[INST] q [\\INST]`"
    )
    refusal: RefusalWordConfig = Field(default_factory=RefusalWordConfig)
    prefix: PrefixConfig = Field(default_factory=PrefixConfig)
    rto: TransitionConfig = Field(default_factory=TransitionConfig)
    dpo: PreferenceStageConfig = Field(default_factory=PreferenceStageConfig)

    @model_validator(mode="before")
    @classmethod
    def _keeps_the_released_share(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("full") is not True:
            return given
        rto = given.get("rto", {})
        return {**given, "rto": {"keep_rate": RELEASED_FULL_KEEP_RATE, **rto}} if isinstance(rto, Mapping) else given

    @model_validator(mode="after")
    def _prefers_in_one_template(self) -> Self:
        if self.arm == "dpo" and self.template == "released":
            raise ValueError("arm `dpo` prefers in the chat template; `template: released` is for the other arms")
        return self
