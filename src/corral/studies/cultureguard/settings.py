"""Settings of the CultureGuard study: what the guard learns from, and in which languages guards are measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from corral.core.config import Config
from corral.core.stats import REPLICATES
from corral.studies.drawing import SplitRowsConfig
from corral.train.guard.prompted_settings import PromptedGuardConfig

ClaimId = Literal["lora_json_guard", "language_gap"]
CLAIMS: Final[tuple[ClaimId, ...]] = ("lora_json_guard", "language_gap")
TEMPLATED: Final = "templated"
ENGLISH: Final = "en"


class OverfitConfig(Config):
    """The mechanism check of the format: a few rows, learned by heart."""

    rows: int = Field(32, ge=2, description="with every label known, so that one answer is right")
    epochs: int = Field(12, ge=1)
    learning_rate: float = Field(2e-3, gt=0)


class LanguagesConfig(Config):
    """Sets in several languages, aligned row by row."""

    families: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict, description="set in English to the languages that it is translated into"
    )
    rows: int | None = Field(200, ge=1, description="of each set in each language, at the most; null: all")
    default_guard: bool = Field(True, description="measure the shipped default guard; the claim is about it")
    seeds: int = Field(1, ge=1, description="trained guards that are measured, from the first seed on")
    attack_like: int = Field(
        10, ge=0, description="rows a category and language of XSafety's attack-like categories; 0 leaves it out"
    )
    attack_like_languages: tuple[str, ...] = ("en", "de", "es", "fr", "zh", "ru", "ja", "ar", "hi")

    @model_validator(mode="after")
    def _has_a_family(self) -> Self:
        if not self.families:
            raise ValueError("no set in several languages is named")
        return self


class CultureGuardConfig(Config):
    """Settings of the recipe."""

    data: Literal["public", "templated"] = Field("public", description="templated: invented categories, a toy")
    claims: tuple[ClaimId, ...] = CLAIMS
    taxonomy: str = Field("aegis_2", description="of the prompt; labels of rows are mapped to it")
    categories: tuple[str, ...] = Field((), description="codes in the prompt, in order; all when empty")
    training: PromptedGuardConfig = Field(
        default_factory=lambda: PromptedGuardConfig(
            first_trained_layer=0, rank=8, alpha=32, targets=("q_proj", "v_proj")
        )
    )
    rows: SplitRowsConfig = Field(default_factory=SplitRowsConfig)
    overfit: OverfitConfig = Field(default_factory=OverfitConfig)
    languages: LanguagesConfig
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="of the training")
    untrained_rows: int = Field(24, ge=1, description="held-out rows that the base model answers, for comparison")
    scoring_batch: int = Field(32, ge=1, description="rows a call to a guard; scores reach the disk after each")
    scoring_dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="of the weights that are measured")
    keep_models: bool = Field(False, description="keep every trained model, not only the guard of the first seed")
    tried: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict, description="by claim, what was done about it in earlier runs"
    )
    replicates: int = Field(REPLICATES, ge=100, description="resamples of an interval")
    seed: int = Field(0, description="of draws, splits and the bootstrap")

    @property
    def toy(self) -> bool:
        """Whether what it shows counts as a toy."""
        return self.data == TEMPLATED
