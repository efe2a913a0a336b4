"""The guards of the study: trained once, loaded one at a time, and what they say about rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from corral.core.files import sha256_json
from corral.core.runs import Run
from corral.data.examples import ModerationExample
from corral.guards.cultureguard.guard import CultureGuard, Decode
from corral.guards.cultureguard.prompts import CategoryList
from corral.models.loading import weights_revision
from corral.studies.cultureguard.settings import CultureGuardConfig
from corral.studies.json_guards import JsonTraining, prompt_hash, train_json_guard
from corral.studies.training_cells import TrainingCells, keep_model
from corral.studies.verdict_store import Judged, VerdictStore
from corral.train.guard.prompted_settings import PromptedGuardConfig

GUARD: Final = "guard"


@dataclass
class Guards:
    """Trains, loads and asks the guards of the study.

    Args:
        run: takes models and verdicts.
        config: of the study, with a base that is there.
        categories: in the prompt.
    """

    run: Run
    config: CultureGuardConfig
    categories: CategoryList
    store: VerdictStore = field(init=False)
    _cells: TrainingCells = field(init=False)
    _loaded: tuple[Path | str, Any] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.store = VerdictStore(self.run, batch=self.config.scoring_batch)
        self._cells = TrainingCells(self.run)

    def judge(self, training: JsonTraining | None, rows: Sequence[ModerationExample], *, decode: Decode) -> Judged:
        """Rows as a guard judges them; trained now if need be, and only if rows are left to judge.

        Args:
            training: of the guard; ``None`` for the base model as it is.
            rows: what is judged, each by its own target.
            decode: probabilities, or what the guard writes.
        """
        name = "untrained" if training is None else training.name
        key = {"guard": self.key(training), "decode": decode, "dtype": self.config.scoring_dtype}
        return self.store.judge_by(name, key, rows, lambda: self._guard(training, decode))

    def key(self, training: JsonTraining | None) -> dict[str, Any]:
        """Everything that a guard's weights and prompt depend on."""
        if training is None:
            return {"base": weights_revision(self.config.training.base), "prompt": prompt_hash(self.categories)}
        return training.key(self.categories)

    def keep(self, training: JsonTraining, folder: Path) -> None:
        """Copy a trained model's directory, unless ``folder`` is there."""
        if not folder.is_dir():
            keep_model(self._model(training), folder)

    def discard_all(self) -> None:
        """Remove every trained model that was not kept."""
        self._loaded = None
        self._cells.discard_all()

    def _guard(self, training: JsonTraining | None, decode: Decode) -> CultureGuard:
        import torch

        from corral.models.engines.torch import TorchEngine

        reference = self.config.training.base if training is None else self._model(training)
        if self._loaded is None or self._loaded[0] != reference:
            self._loaded = None  # the one before it leaves memory first
            self._loaded = (reference, TorchEngine.load(reference, dtype=getattr(torch, self.config.scoring_dtype)))
        return CultureGuard(
            self._loaded[1],
            self.categories,
            decode=decode,
            name_categories=False,
            model_revision=sha256_json(self.key(training))[:16],
        )

    def _model(self, training: JsonTraining) -> Path:
        def train(checkpoints: Path, model: Path) -> int:
            dtype = self.config.scoring_dtype
            return train_json_guard(training, self.categories, dtype=dtype, checkpoints=checkpoints, model=model)

        return self._cells.model(training.name, self.key(training), train)


def settings_of(config: CultureGuardConfig, seed: int, **changes: Any) -> PromptedGuardConfig:
    """The study's training settings with a seed, and other changes."""
    changed: Mapping[str, Any] = {"seed": seed, **changes}
    return config.training.model_copy(update=dict(changed))
