"""Settings of the MoGU study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, Self, get_args

from pydantic import Field, model_validator

from corral.core.config import Config
from corral.core.errors import CorralError, UserError
from corral.core.stats import REPLICATES
from corral.data.mixture import MixtureEntry
from corral.redteam.loading import check_guards_are_asked
from corral.redteam.styles import choose_styles
from corral.studies.defences.settings import Defence, QuestionsConfig
from corral.train.fine_tuning_settings import SftConfig
from corral.train.mogu.settings import MoguConfig

ClaimId = Literal["gates_separate_malicious", "defence_table", "identity_tests"]
CLAIMS: Final[tuple[ClaimId, ...]] = get_args(ClaimId)
COMPLIER: Final = "tiny:complier"
"""Names the tiny model that complies with every templated request (see ``tiny_base``)."""
DEFENCES: Final[tuple[Defence, ...]] = get_args(Defence)
Filter = Literal["perplexity-filter", "self-examination", "hard-router", "linear-probe"]
FILTERS: Final[tuple[Filter, ...]] = get_args(Filter)


class PromptsConfig(Config):
    """Instructions that are trained on."""

    malicious: tuple[MixtureEntry, ...] = Field((), description="`train_and_ship` sources of malicious instructions")
    benign: tuple[MixtureEntry, ...] = Field((), description="likewise of benign ones")
    keep_clean_of: tuple[str, ...] = Field((), description="evaluation sources whose texts are left out")
    pairs: Path | None = Field(
        None, description="the user's own file in their place: columns prompt, label, affirmative, rejecting"
    )
    train: int = Field(16, ge=2, description="of each kind, another draw for every seed")
    validation: int = Field(8, ge=2, description="of each kind, by which checkpoints are chosen")
    answer_tokens: int = Field(40, ge=1, description="of the base model's own answers to benign instructions")


class GatesConfig(Config):
    """Prompts that the gates are read on; none of them trains anything."""

    sets: Mapping[str, tuple[str, ...]] = Field(default_factory=dict, description="name to evaluation sources")
    rows: int | None = Field(None, ge=8, description="of each label and set, at the most")
    styles: tuple[str, ...] = Field((), description="in which malicious prompts of the first set are read as attacks")


class DefencesConfig(QuestionsConfig):
    """What is laid over the base model, and how it is attacked."""

    defences: tuple[Defence, ...] = DEFENCES
    filters: tuple[Filter, ...] = FILTERS
    expert: SftConfig = Field(default_factory=SftConfig, description="of SafeDecoding: refusals, learnt by LoRA")
    expert_rows: int = Field(70, ge=2, description="refused instructions that it learns")

    @model_validator(mode="after")
    def _asks_the_guards_it_sets(self) -> Self:
        try:
            check_guards_are_asked(self.guard_settings, self.judges)
        except CorralError as error:
            raise ValueError(str(error)) from error
        return self


class MoguStudyConfig(Config):
    """Settings of the recipe."""

    base: str = Field("embedded:smollm2-135m-instruct", description=f"chat model that is gated, or `{COMPLIER}`")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="in which answers are generated")
    data: Literal["public", "templated"] = Field("public", description="templated: invented requests, a toy")
    claims: tuple[ClaimId, ...] = Field(CLAIMS, description="empty: train and write the model alone")
    prompts: PromptsConfig = Field(default_factory=PromptsConfig)
    training: MoguConfig = Field(default_factory=MoguConfig)
    gates: GatesConfig = Field(default_factory=GatesConfig)
    defences: DefencesConfig = Field(default_factory=DefencesConfig)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="of draws and trainings; the first is kept")
    tried: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict, description="by claim, what was done about it in earlier runs, for one that does not hold"
    )
    replicates: int = Field(REPLICATES, ge=100, description="resamples of an interval")
    seed: int = Field(0, description="of the bootstrap and of what all seeds share")

    @model_validator(mode="after")
    def _has_its_data(self) -> Self:
        if self.gates.styles:
            try:
                choose_styles(self.gates.styles)
            except UserError as error:
                raise ValueError(str(error)) from error
        if self.toy:
            return self
        if self.prompts.pairs is None and not (self.prompts.malicious and self.prompts.benign):
            raise ValueError("`prompts` names neither sources of both kinds nor a file of pairs")
        if "gates_separate_malicious" in self.claims and not self.gates.sets:
            raise ValueError("`gates_separate_malicious` needs `gates.sets`")
        asked = self.defences
        if "defence_table" in self.claims and not (asked.harmful.sources and asked.benign.sources):
            raise ValueError("`defence_table` needs sources of harmful and benign requests")
        return self

    @property
    def toy(self) -> bool:
        """Whether what it shows counts as a toy."""
        return self.data == "templated"
