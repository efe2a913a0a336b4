"""The guards of the study: classifiers under either loss, and the generative guard that learned the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from corral.core.runs import Run
from corral.data.examples import ModerationExample, rows_hash
from corral.guards.cultureguard.guard import CultureGuard, Decode
from corral.guards.cultureguard.prompts import CategoryList
from corral.guards.duoguard import TAXONOMY, DuoGuard
from corral.models.loading import weights_revision
from corral.studies.duoguard.rows import StudyRows
from corral.studies.duoguard.settings import DuoGuardConfig
from corral.studies.json_guards import JsonTraining, train_json_guard
from corral.studies.training import training_module
from corral.studies.training_cells import TrainingCells, keep_model
from corral.studies.verdict_store import Judged, VerdictStore

Loss = Literal["zlpr", "bce"]
LOSSES: Final[tuple[Loss, ...]] = ("zlpr", "bce")
GUARD: Final = "guard"


@dataclass
class Guards:
    """Trains, loads and asks the guards of the study.

    Args:
        run: takes models and verdicts.
        config: of the study, with bases that are there.
        rows: of the study.
    """

    run: Run
    config: DuoGuardConfig
    rows: StudyRows
    store: VerdictStore = field(init=False)
    _cells: TrainingCells = field(init=False)

    def __post_init__(self) -> None:
        self.store = VerdictStore(self.run, batch=self.config.scoring_batch)
        self._cells = TrainingCells(self.run)
        self._categories = CategoryList.of(TAXONOMY)

    def judge(self, loss: Loss, seed: int, rows: Sequence[ModerationExample]) -> Judged:
        """Rows as a classifier judges them; trained now if need be, and only if rows are left to judge."""
        key = {"guard": self._classifier_key(loss, seed), "dtype": self.config.scoring_dtype}
        return self.store.judge_by(f"{loss}-{seed}", key, rows, lambda: self.classifier(loss, seed))

    def judge_generative(self, seed: int, rows: Sequence[ModerationExample], *, decode: Decode) -> Judged:
        """The same of the generative guard."""
        training = self._generative(seed)
        key = {"guard": training.key(self._categories), "decode": decode, "dtype": self.config.scoring_dtype}
        return self.store.judge_by(training.name, key, rows, lambda: self.generative(seed, decode))

    def classifier(self, loss: Loss, seed: int) -> DuoGuard:
        """The classifier of a loss and seed."""
        return DuoGuard.load(model=self._classifier_model(loss, seed), dtype=self.config.scoring_dtype)

    def generative(self, seed: int, decode: Decode) -> CultureGuard:
        """The generative guard of a seed: asked about the same categories, in one JSON answer."""
        return CultureGuard.load(
            model=self._generative_model(seed),
            taxonomy=TAXONOMY,
            decode=decode,
            name_categories=False,
            answer_lead="",
            dtype=self.config.scoring_dtype,
        )

    def keep(self, seed: int, folder: Path) -> None:
        """Copy the classifier of the log-sum-exp loss, unless ``folder`` is there."""
        if not folder.is_dir():
            keep_model(self._classifier_model("zlpr", seed), folder)

    def discard_all(self) -> None:
        """Remove every trained model that was not kept."""
        self._cells.discard_all()

    def _classifier_key(self, loss: Loss, seed: int) -> dict[str, Any]:
        settings = self.config.training.model_copy(update={"loss": loss, "seed": seed})
        base = weights_revision(settings.base)
        return {"settings": settings.model_dump(mode="json") | {"base": base}, "rows": rows_hash(self.rows.train)}

    def _generative(self, seed: int) -> JsonTraining:
        settings = self.config.generative.model_copy(update={"seed": seed})
        return JsonTraining(f"generative-{seed}", self.rows.train, settings)

    def _classifier_model(self, loss: Loss, seed: int) -> Path:
        settings = self.config.training.model_copy(update={"loss": loss, "seed": seed})

        def train(checkpoints: Path, model: Path) -> int:
            import torch

            duoguard = training_module("guard.duoguard")
            trained = duoguard.train_duoguard(self.rows.train, settings, checkpoints)
            weights = trained.to(getattr(torch, self.config.scoring_dtype))
            duoguard.save_duoguard(weights, settings.base, model)
            return len(self.rows.train)

        return self._cells.model(f"{loss}-{seed}", self._classifier_key(loss, seed), train)

    def _generative_model(self, seed: int) -> Path:
        training = self._generative(seed)

        def train(checkpoints: Path, model: Path) -> int:
            dtype = self.config.scoring_dtype
            return train_json_guard(training, self._categories, dtype=dtype, checkpoints=checkpoints, model=model)

        return self._cells.model(training.name, training.key(self._categories), train)
