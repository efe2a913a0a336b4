"""The guards of the study: classifiers under either loss, and the generative guard that learned the same rows."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from corral.core.files import atomic_directory, sha256_json
from corral.core.runs import Run
from corral.data.examples import ModerationExample, rows_hash
from corral.guards.cultureguard.guard import CultureGuard, Decode
from corral.guards.cultureguard.prompts import CategoryList
from corral.guards.duoguard import TAXONOMY, DuoGuard
from corral.guards.prompted.exchanges import Exchange
from corral.models.loading import weights_revision
from corral.studies.duoguard.rows import StudyRows
from corral.studies.duoguard.settings import DuoGuardConfig
from corral.studies.training import training_module
from corral.studies.training_cells import TrainingCells
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
        key = {"guard": self._generative_key(seed), "decode": decode, "dtype": self.config.scoring_dtype}
        return self.store.judge_by(f"generative-{seed}", key, rows, lambda: self.generative(seed, decode))

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
            source = self._classifier_model("zlpr", seed)
            with atomic_directory(folder) as staged:
                shutil.copytree(source, staged, dirs_exist_ok=True)

    def discard_all(self) -> None:
        """Remove every trained model that was not kept."""
        self._cells.discard_all()

    def _classifier_key(self, loss: Loss, seed: int) -> dict[str, Any]:
        settings = self.config.training.model_copy(update={"loss": loss, "seed": seed})
        base = weights_revision(settings.base)
        return {"settings": settings.model_dump(mode="json") | {"base": base}, "rows": rows_hash(self.rows.train)}

    def _generative_key(self, seed: int) -> dict[str, Any]:
        settings = self.config.generative.model_copy(update={"seed": seed})
        return {
            "settings": settings.model_dump(mode="json") | {"base": weights_revision(settings.base)},
            "prompt": sha256_json(self._categories.render(Exchange("")))[:16],
            "rows": rows_hash(self.rows.train),
        }

    def _classifier_model(self, loss: Loss, seed: int) -> Path:
        settings = self.config.training.model_copy(update={"loss": loss, "seed": seed})

        def train(checkpoints: Path, model: Path) -> int:
            duoguard = training_module("guard.duoguard")
            trained = duoguard.train_duoguard(self.rows.train, settings, checkpoints)
            duoguard.save_duoguard(_to(trained, self.config.scoring_dtype), settings.base, model)
            return len(self.rows.train)

        return self._cells.model(f"{loss}-{seed}", self._classifier_key(loss, seed), train)

    def _generative_model(self, seed: int) -> Path:
        settings = self.config.generative.model_copy(update={"seed": seed})

        def train(checkpoints: Path, model: Path) -> int:
            formats, prompted = training_module("guard.cultureguard"), training_module("guard.prompted")
            shortening = training_module("guard.shortening")
            chat = prompted.load_chat(settings)
            tokens = settings.max_message_tokens
            shortened = shortening.shorten_messages(self.rows.train, chat.backend, max_tokens=tokens)
            formatted = formats.cultureguard_rows(shortened, self._categories, frame=settings.frame)
            trained = prompted.train_prompted_guard(formatted.rows, settings, checkpoints)
            prompted.save_prompted_guard(_to(trained, self.config.scoring_dtype), chat, model)
            return len(formatted.rows)

        return self._cells.model(f"generative-{seed}", self._generative_key(seed), train)


def _to(model: Any, dtype: str) -> Any:
    import torch

    return model.to(getattr(torch, dtype))
