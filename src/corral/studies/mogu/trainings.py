"""What the study trains, each once: a mixture for every seed, and the expert of SafeDecoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from corral.core.files import atomic_write_json, sha256_json
from corral.core.runs import Run
from corral.data.examples import ModerationExample, PromptCompletionExample
from corral.data.self_written.replies import refusals
from corral.models.engines.torch import TorchEngine
from corral.models.loading import find_dtype, load_causal_lm, weights_revision
from corral.studies.latent_guard.templated import REFUSAL
from corral.studies.mogu.rows import DrawnPair, Instructions, account_of_file, pairs_of
from corral.studies.mogu.settings import MoguStudyConfig
from corral.studies.training import training_module
from corral.studies.training_cells import TrainingCells

if TYPE_CHECKING:
    from corral.train.mogu.pairs import ResponsePair

STAGES: Final = "stages-{seed}.json"


class Trainings:
    """The trained models of a run.

    Args:
        config: settings, whose base is a model.
        run: keeps them under ``cells``.
        instructions: that train; ``None`` when the user gives pairs.
    """

    def __init__(self, config: MoguStudyConfig, run: Run, instructions: Instructions | None) -> None:
        self.config = config
        self.run = run
        self.instructions = instructions
        self._cells = TrainingCells(run)

    @cached_property
    def base_revision(self) -> str:
        """Of the base's weights."""
        return weights_revision(self.config.base)

    def mixture(self, seed: int) -> Path:
        """The directory of routing parts that a seed gives; what its checkpoints score is among the artefacts."""
        key = {
            "base": self.base_revision,
            "training": self.config.training.model_dump(mode="json"),
            "prompts": self.config.prompts.model_dump(mode="json"),
            "rows": self._account(seed),
            "seed": seed,
        }

        def train(checkpoints: Path, model: Path) -> int:
            taught, held = self._pairs(seed)
            settings = self.config.training.model_copy(update={"seed": seed})
            made = training_module("mogu.train").train_mogu(
                taught, held, self.config.base, settings, checkpoints, run=self.run
            )
            scores = {
                part: {"chosen": found.chosen, "stopped": found.stopped, "scores": dict(found.scores)}
                for part, found in made.stages.items()
            }
            atomic_write_json(self.run.artefacts / STAGES.format(seed=seed), scores)
            made.save(model)
            return len(taught)

        return self._cells.model(f"mogu-{seed}", key, train)

    def safe_decoding_expert(self) -> Path:
        """The adapter of a model that has learnt to refuse: the base on refused instructions, nothing else."""
        asked = self.config.defences
        rows = self._refused(asked.expert_rows)
        key = {
            "base": self.base_revision,
            "expert": asked.expert.model_dump(mode="json"),
            "rows": [row.prompt.messages[-1].text for row in rows],
        }

        def train(checkpoints: Path, model: Path) -> int:
            tuned = training_module("sft").train_sft(rows, self.config.base, asked.expert, checkpoints)
            tuned.save_adapter(model)
            return len(rows)

        return self._cells.model("safe-decoding-expert", key, train)

    def base_engine(self, *, dtype: str | None = None) -> TorchEngine:
        """The base model."""
        return TorchEngine.load(self.config.base, dtype=find_dtype(dtype or self.config.dtype))

    def taught(self, seed: int) -> DrawnPair:
        """Prompts that a seed trains and validates on, with labels."""
        if self.instructions is not None:
            return self.instructions.draw(self.config, seed)
        taught, held = self._pairs(seed)
        return DrawnPair(_as_examples(taught), _as_examples(held))

    def _account(self, seed: int) -> Any:
        if self.instructions is None:
            return account_of_file(self.config)
        drawn = self.instructions.draw(self.config, seed)
        return sha256_json([[row.source, row.id] for row in (*drawn.train, *drawn.validation)])

    def _pairs(self, seed: int) -> tuple[list[ResponsePair], list[ResponsePair]]:
        if self.instructions is None:
            return self._own_pairs(seed)
        drawn = self.instructions.draw(self.config, seed)
        engine = None if self.config.toy else self.base_engine()
        return pairs_of(drawn.train, self.config, engine), pairs_of(drawn.validation, self.config, engine)

    def _own_pairs(self, seed: int) -> tuple[list[ResponsePair], list[ResponsePair]]:
        """The user's pairs, drawn by seed; those beyond the numbers asked for are not used."""
        import numpy as np

        asked = self.config.prompts
        path = Path(asked.pairs or "")
        pairs: list[ResponsePair] = training_module("mogu.pairs").read_pairs(path)
        rng = np.random.default_rng([self.config.seed, seed])
        taught: list[ResponsePair] = []
        held: list[ResponsePair] = []
        for malicious in (False, True):
            some = [pair for pair in pairs if pair.malicious == malicious]
            order = [some[i] for i in rng.permutation(len(some))]
            validation = min(asked.validation, len(order) // 2)
            held += order[:validation]
            taught += order[validation : validation + asked.train]
        return taught, held

    def _refused(self, limit: int) -> list[PromptCompletionExample]:
        if self.instructions is None:
            found = [pair for pair in self._own_pairs(self.config.seed)[0] if pair.malicious]
            return [PromptCompletionExample(pair.prompt, pair.rejecting) for pair in found[:limit]]
        rows = [row for row in self.instructions.rows if row.harmful][:limit]
        return [
            PromptCompletionExample(
                row.conversation, REFUSAL if self.config.toy else refusals().draw(row.text, _codes(row.categories))
            )
            for row in rows
        ]


def merged_expert(config: MoguStudyConfig, adapter: Path) -> Any:
    """The base with the expert's adapter merged, in the study's dtype."""
    from corral.models.adapters import merge_lora

    model = load_causal_lm(config.base)
    merge_lora(model, adapter)
    dtype = find_dtype(config.dtype)
    return model if dtype is None else model.to(dtype)


def _codes(categories: Mapping[str, bool]) -> list[str]:
    return [code for code, holds in categories.items() if holds]


def _as_examples(pairs: Sequence[ResponsePair]) -> tuple[ModerationExample, ...]:
    return tuple(
        ModerationExample(
            pair.prompt,
            "prompt",
            harmful=pair.malicious,
            source="own pairs",
            licence="of the user's file",
            id=pair.where,
        )
        for pair in pairs
    )
