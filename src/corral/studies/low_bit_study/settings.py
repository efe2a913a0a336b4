"""Settings of the low-bit study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Self

from pydantic import Field, JsonValue, model_validator

from corral.core.config import Config, load_config
from corral.core.errors import UserError
from corral.core.stats import REPLICATES
from corral.data.wikitext import WIKITEXT
from corral.quant.calibration import CalibrationSettings
from corral.quant.methods import METHODS, Method
from corral.train.fine_tuning_settings import SftConfig

ClaimId = Literal[
    "ordering_against_paper",
    "ultra_low_bits_collapse",
    "lora_finetuning_does_not_recover",
    "safety_drift",
    "guard_drift",
]
MOST_DRIFT_CELLS: Final = 8


class QuantizerConfig(Config):
    """One method with its settings: a row of the matrix, or several that differ in the seed of their calibration."""

    method: str = Field(description="as for `corral quantize`")
    settings: Mapping[str, JsonValue] = Field(default_factory=dict, description="of the method")
    seeds: int = Field(1, ge=1, description="calibration seeds, from 0")
    blocks: int | None = Field(
        None, ge=1, description="only so many of the lowest blocks, for a slow method; null: as many as the study's"
    )

    @property
    def name(self) -> str:
        """For example ``gptq bits=3 group_size=64``."""
        part = [] if self.blocks is None else [f"(lowest {self.blocks} blocks)"]
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.settings.items()), *part])

    def build(self) -> Method:
        """The method.

        Raises:
            UserError: no such method, or settings that it does not have.
        """
        return load_config(METHODS.get(self.method), self.settings)

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        try:
            self.build()
        except UserError as error:
            raise ValueError(str(error)) from error
        return self


class TuningConfig(Config):
    """Adapters trained on a quantized base, which stays as it is."""

    bases: tuple[QuantizerConfig, ...] = Field(
        (QuantizerConfig(method="nf4"), QuantizerConfig(method="icq")), description="QLoRA's base, and IR-QLoRA's"
    )
    training: SftConfig = Field(default_factory=SftConfig)
    rows: int = Field(120, ge=4, description="self-written questions with answers, in the place of Alpaca")
    elastic: tuple[str, ...] = Field(("icq",), description="methods on whose bases adapters have IR-QLoRA's bridges")


class SafetyConfig(Config):
    """What an aligned model is asked before and after; none of it calibrates anything."""

    model: str = Field("embedded:aligned-smollm2", description="model that refuses, or `tiny:random`")
    quantizers: tuple[QuantizerConfig, ...] = Field(min_length=1, max_length=MOST_DRIFT_CELLS)
    harmful: Mapping[str, int] = Field(min_length=1, description="source of goals to the number drawn")
    benign: Mapping[str, int] = Field(min_length=1, description="source of harmless look-alikes to the number drawn")
    styles: tuple[str, ...] = Field((), description="attack styles beside the plain request")
    judges: tuple[str, ...] = Field(("prefix-list", "guard:default"), min_length=1, description="first is the headline")
    max_new_tokens: int = Field(40, ge=1, description="of an answer")
    batch_size: int = Field(64, ge=1)
    max_nats: float = Field(
        4.0, gt=0, description="a reply that costs the unquantized model more nats a token than this is gibberish"
    )
    min_distinct: float = Field(
        0.2, ge=0, le=1, description="so is one with a smaller share of different words among its words"
    )
    least_coherent: float = Field(
        0.5, ge=0, le=1, description="share of coherent replies below which a model no longer speaks"
    )


class GuardDriftConfig(Config):
    """On what a quantized English guard is measured; sets that no guard may be trained on."""

    quantizers: tuple[QuantizerConfig, ...] = Field(min_length=1, max_length=MOST_DRIFT_CELLS)
    weights: str | None = Field(None, description="folder of a guard; null for the packaged one")
    int8: bool = Field(True, description="and the guard as `dtype: int8` runs it, weights and activations in 8 bits")
    sets: tuple[str, ...] = Field(("aegis_test", "xstest_prompts", "beavertails"), min_length=1)
    limit: int | None = Field(200, ge=10, description="rows of each set")


class LowBitConfig(Config):
    """Settings of the recipe."""

    model: str = Field("embedded:smollm2-135m-instruct", description="model that is quantized, or `tiny:random`")
    data: Literal["public", "packaged"] = Field("public", description="packaged: text of this project, a toy")
    quantizers: tuple[QuantizerConfig, ...] = Field(min_length=1, description="the rows of the matrix")
    blocks: int | Literal["all"] | None = Field(None, description="only so many of the lowest blocks; null for all")
    calibration: CalibrationSettings = Field(default_factory=lambda: CalibrationSettings(source=WIKITEXT))
    out_of_domain: tuple[str, ...] = Field((), description="corpora that no method was calibrated on")
    window: int = Field(512, ge=2, description="tokens of a window that is scored")
    windows: int = Field(16, ge=2, description="windows of each text, spread evenly over it")
    tuning: TuningConfig | None = None
    safety: SafetyConfig | None = None
    guard: GuardDriftConfig | None = None
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="of trainings")
    tried: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict, description="by claim, what was done about it in earlier runs, for one that does not hold"
    )
    replicates: int = Field(REPLICATES, ge=100, description="resamples of an interval")
    seed: int = Field(0, description="of the bootstrap")

    @property
    def toy(self) -> bool:
        """Whether what it shows counts as a toy."""
        return self.data == "packaged"

    @property
    def quantized_blocks(self) -> int | None:
        """How many of the lowest blocks are quantized; ``None`` for all."""
        return None if self.blocks == "all" else self.blocks


ORDERED_METHODS: Final = ("gptq", "awq")
"""Methods that the paper finds better than rounding to nearest at 3 and 4 bits."""
