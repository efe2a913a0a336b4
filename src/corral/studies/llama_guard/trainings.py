"""The trainings of the study, each done once: under a hash of all that it depends on, resumed after a kill."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from corral.core.config import Config, config_hash
from corral.core.files import atomic_write_json, read_json, sha256_json
from corral.core.progress import milestone
from corral.core.runs import Run, resumable_run
from corral.data.examples import ModerationExample, example_to_json
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.guards.prompted.turns import Turn
from corral.models.tiny import TINY, write_tiny_llama
from corral.studies.training import training_module
from corral.studies.training_cells import keep_model
from corral.studies.verdict_store import file_name
from corral.train.guard.augmentation import AugmentationConfig
from corral.train.guard.prompted_settings import PromptedGuardConfig
from corral.train.guard.shortening import shorten_messages

if TYPE_CHECKING:
    from corral.models.engines.torch import TorchEngine

_MODEL: Final = "model"
_ACCOUNT: Final = "rows.json"
_TINY_CONTEXT: Final = 2048


@dataclass(frozen=True)
class Training:
    """One training: what it starts from, learns from, and under which settings.

    Attributes:
        name: for logs and file names.
        rows: what is learnt.
        policy: in the prompt before augmentation.
        augmentation: what becomes of the policy, row by row.
        settings: of the trainer; ``base`` is not read where there is a parent.
        parent: the training whose model it starts from.
    """

    name: str
    rows: tuple[ModerationExample, ...]
    policy: PolicyPrompt
    augmentation: AugmentationConfig
    settings: PromptedGuardConfig
    parent: Training | None = None

    @cached_property
    def digest(self) -> str:
        """Hash of everything that the weights depend on."""
        return sha256_json(
            {
                "rows": [example_to_json(row) for row in self.rows],
                "policy": policy_key(self.policy),
                "augmentation": self.augmentation.model_dump(mode="json"),
                "settings": self.settings.model_dump(mode="json"),
                "parent": None if self.parent is None else self.parent.digest,
            }
        )[:16]


class _TrainingRecord(Config):
    """What the run directory of one training says about it."""

    name: str
    digest: str
    rows: int
    augmentation: AugmentationConfig
    settings: PromptedGuardConfig
    parent: str | None


def policy_key(policy: PolicyPrompt) -> list[str]:
    """What tells a policy apart from others: its taxonomy and what the prompt says."""
    return [policy.taxonomy.id, policy.taxonomy.version, policy.render([Turn("User", "")])]


class TrainedModels:
    """Trains what is asked for, unless it is there already, and keeps one model in memory.

    Args:
        run: the run; trainings are run directories in ``trainings`` of its own.
        dtype: of the weights as they are saved and measured.
        tiny_layers: of the tiny random base.
        tiny_hidden_size: of the same.
        tiny_weight_std: of its random weights.
        tiny_words: texts whose words are the tiny base's tokens.
    """

    def __init__(
        self,
        run: Run,
        *,
        dtype: str,
        tiny_layers: int,
        tiny_hidden_size: int,
        tiny_weight_std: float,
        tiny_words: Sequence[str] = (),
    ) -> None:
        self._run = run
        self._dtype = dtype
        self._tiny: dict[str, Any] = {
            "layers": tiny_layers,
            "hidden_size": tiny_hidden_size,
            "weight_std": tiny_weight_std,
            "words_of": tiny_words,
            "context": _TINY_CONTEXT,
        }
        self._loaded: tuple[str, TorchEngine] | None = None

    def engine(self, training: Training) -> TorchEngine:
        """The trained model, ready to be asked; the one before it leaves memory."""
        import torch

        from corral.models.engines.torch import TorchEngine

        if self._loaded is None or self._loaded[0] != training.digest:
            folder = self.model(training)
            self._unload()
            engine = TorchEngine.load(folder, dtype=getattr(torch, self._dtype))
            self._loaded = (training.digest, engine)
        return self._loaded[1]

    def model(self, training: Training) -> Path:
        """The trained model's directory.

        Raises:
            MissingDependencyError: the training libraries are not installed.
        """
        folder = self._folder(training)
        if not (folder / _MODEL).is_dir():
            self._unload()
            self._train(training, folder)
        return folder / _MODEL

    def discard(self, training: Training) -> None:
        """Remove a model that is not asked any more."""
        if self._loaded is not None and self._loaded[0] == training.digest:
            self._unload()
        shutil.rmtree(self._folder(training) / _MODEL, ignore_errors=True)

    def discard_all(self) -> None:
        """Remove every model; what is known about the trainings stays."""
        self._unload()
        for folder in self._trainings().glob("*"):
            shutil.rmtree(folder / _MODEL, ignore_errors=True)

    def accounts(self) -> dict[str, Any]:
        """By training, which rows it was given: left out, varied, and categories before and after augmentation."""
        return {path.parent.name: read_json(path) for path in sorted(self._trainings().glob(f"*/{_ACCOUNT}"))}

    def copy(self, training: Training, folder: Path) -> None:
        """Copy a trained model's directory, unless ``folder`` is there."""
        if not folder.is_dir():
            keep_model(self.model(training), folder)

    def _folder(self, training: Training) -> Path:
        return self._trainings() / f"{file_name(training.name)}-{training.digest}"

    def _trainings(self) -> Path:
        return self._run.path / "trainings"

    def _train(self, training: Training, folder: Path) -> None:
        llama_guard, prompted = training_module("guard.llama_guard"), training_module("guard.prompted")
        started = time.perf_counter()
        settings = training.settings.model_copy(update={"base": str(self._base(training))})
        record = _TrainingRecord(
            name=training.name,
            digest=training.digest,
            rows=len(training.rows),
            augmentation=training.augmentation,
            settings=training.settings,
            parent=training.parent.name if training.parent else None,
        )
        inner = resumable_run(folder, "run", config_hash(record)) or Run.create(
            folder, "run", record, seed=settings.seed
        )
        with inner:
            chat = prompted.load_chat(settings)
            formatted = llama_guard.llama_guard_rows(
                shorten_messages(training.rows, chat.backend, max_tokens=settings.max_message_tokens),
                training.policy,
                training.augmentation,
                seed=settings.seed,
                frame=settings.frame,
            )
            atomic_write_json(folder / _ACCOUNT, formatted.report)
            trained = prompted.train_prompted_guard(formatted.rows, settings, inner.checkpoints, run=inner)
            prompted.save_prompted_guard(trained.to(_torch_dtype(self._dtype)), chat, folder / _MODEL)
            shutil.rmtree(inner.checkpoints)
        del trained
        gc.collect()  # the library's trainer refers to itself and would keep the model until the collector comes by
        seconds = time.perf_counter() - started
        milestone(f"trained {training.name} on {len(formatted.rows)} rows in {seconds:.0f} s")
        self._run.log(
            cell="training", name=training.name, rows=len(training.rows), formatted=len(formatted.rows), seconds=seconds
        )

    def _base(self, training: Training) -> Path | str:
        if training.parent is not None:
            return self.model(training.parent)
        if training.settings.base != TINY:
            return training.settings.base
        folder = self._run.path / f"base-{training.settings.seed}"
        return write_tiny_llama(folder, seed=training.settings.seed, **self._tiny)

    def _unload(self) -> None:
        self._loaded = None  # nothing in an engine refers back to it, so its memory is free at once


def _torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)
