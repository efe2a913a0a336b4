"""Settings of the Latent Guard study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Self, get_args

from pydantic import Field, model_validator

from corral.core.config import Config
from corral.core.errors import UserError
from corral.core.stats import REPLICATES
from corral.data.mixture import MixtureEntry
from corral.guards.latent_guard.fitting import RefusalRule
from corral.redteam.goals import LEFT_OUT
from corral.redteam.styles import choose_styles
from corral.train.guard.prompted_settings import PromptedGuardConfig

ClaimId = Literal[
    "harm_vs_refusal_separate",
    "beats_bag_of_words_on_matched_pairs",
    "robust_to_compliance_tuning",
    "jailbreak_table",
    "steering_moves_refusal",
]
CLAIMS: Final[tuple[ClaimId, ...]] = get_args(ClaimId)
REFUSER: Final = "tiny:refuser"
"""For a model: a tiny one that the run trains to refuse a templated class of requests."""


class JailbreakConfig(Config):
    """What harmful and benign goals are wrapped in."""

    styles: tuple[str, ...] = Field(description="presets and styles of `corral redteam styles`")
    goals: int = Field(24, ge=2, description="harmful goals, and as many benign, of the first matched set")
    leave_out: tuple[str, ...] = Field(LEFT_OUT, description="words in the names of categories that are left out")
    template_chars: int = Field(700, ge=1, description="longest template of a public corpus that is used")
    answer_tokens: int = Field(64, ge=1, description="tokens that styles leave free for an answer")

    @model_validator(mode="after")
    def _knows_its_styles(self) -> Self:
        try:
            choose_styles(self.styles)
        except UserError as error:
            raise ValueError(str(error)) from error
        return self


class TuningConfig(Config):
    """Fine-tuning towards compliance, on benign requests only."""

    training: PromptedGuardConfig = Field(
        default_factory=PromptedGuardConfig, description="`base` is the study's model"
    )
    rows: int = Field(80, ge=1, description="benign requests of the fit rows")
    answer: str = Field("Sure, I can help with that. Here is what you need:", description="what they are answered with")
    test_rows: int = Field(120, ge=16, description="of the published test rows that are read before and after")


class InversionConfig(Config):
    """The reply inversion, shown beside the separation of the directions."""

    instructions: int = Field(12, ge=1, description="harmful ones, and as many harmless")
    layers: tuple[int, ...] = Field(description="steered one at a time")
    coefficient: float = Field(2.0, gt=0, description="of the directions, added and subtracted")
    questions: int = Field(1, ge=1, le=3)


class SteeringConfig(Config):
    """A tiny model that is trained to refuse a templated class, and what its refusal direction does."""

    refused: int = Field(80, ge=16, description="templated requests that it is trained to refuse")
    answered: int = Field(160, ge=16, description="those that it is trained to answer: the more, so answering is usual")
    layers: int = Field(5, ge=2)
    hidden_size: int = Field(64, ge=8)
    epochs: int = Field(12, ge=1)
    learning_rate: float = Field(1.5e-3, gt=0)
    coefficient: float = Field(2.0, gt=0, description="of the direction, added")
    test_rows: int = Field(32, ge=16)


class LatentGuardConfig(Config):
    """Settings of the recipe."""

    model: str = Field("embedded:smollm2-135m-instruct", description=f"chat model that is read, or `{REFUSER}`")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("float32", description="of its weights")
    data: Literal["public", "templated"] = Field("public", description="templated: invented requests, a toy")
    claims: tuple[ClaimId, ...] = Field(CLAIMS, description="empty: fit centres only")
    fit: tuple[MixtureEntry, ...] = Field((), description="rows of the centres that ship; train_and_ship sources only")
    keep_clean_of: tuple[str, ...] = Field((), description="evaluation sources whose texts are left out of `fit`")
    development: float = Field(0.3, gt=0, lt=1, description="share of fit groups that variant and alpha are chosen on")
    operating_point: Literal["zero", "best_f1"] | float = Field(
        "best_f1", description="alpha: 0 as published, the best F1, or the largest false-positive rate"
    )
    variant_sites: tuple[str, ...] = Field((), description="choices of sites to try; empty: all of them")
    refusal_rule: RefusalRule = Field("thirds", description="how prompts count as refused: `sign` or `thirds`")
    published: tuple[MixtureEntry, ...] = Field((), description="rows as in the paper; half are held out, none ships")
    pairs: tuple[str, ...] = Field((), description="evaluation sets of harmful prompts and harmless look-alikes")
    pair_rows: int | None = Field(None, ge=16, description="rows of each, at the most")
    jailbreaks: JailbreakConfig | None = None
    tuning: TuningConfig | None = None
    inversion: InversionConfig | None = None
    steering: SteeringConfig = Field(default_factory=SteeringConfig, description="of the toy claim")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="of splits and trainings")
    step_back: bool = Field(
        False, description="read the token before one that holds both the instruction's end and template text"
    )
    shard_rows: int = Field(48, ge=1, description="prompts whose activations reach the disk together")
    tried: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict, description="by claim, what was done about it in earlier runs, for one that does not hold"
    )
    replicates: int = Field(REPLICATES, ge=100, description="resamples of an interval")
    seed: int = Field(0, description="of draws and the bootstrap")

    @model_validator(mode="after")
    def _has_what_its_claims_need(self) -> Self:
        needs: dict[ClaimId, object] = {
            "harm_vs_refusal_separate": self.published,
            "beats_bag_of_words_on_matched_pairs": self.pairs,
            "robust_to_compliance_tuning": self.tuning and self.published,
            "jailbreak_table": self.jailbreaks and self.pairs,
        }
        if self.data == "public":
            for claim in self.claims:
                if not needs.get(claim, True):
                    raise ValueError(f"`{claim}` has no data or settings")
        return self

    @property
    def toy(self) -> bool:
        """Whether what it shows counts as a toy."""
        return self.data == "templated"
