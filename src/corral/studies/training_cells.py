"""Trainings of a study, each done once: found again by a hash of all that it depends on, resumed after a kill."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from corral.core.files import atomic_directory, sha256_json
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.studies.verdict_store import file_name

_MODEL: Final = "model"

Train = Callable[[Path, Path], int]
"""``train(checkpoints, model)`` writes the model directory in one step, and returns how many rows it learned from."""


def keep_model(model: Path, folder: Path) -> None:
    """Copy a trained model's directory, whole or not at all, unless ``folder`` is there."""
    if not folder.is_dir():
        with atomic_directory(folder) as staged:
            shutil.copytree(model, staged, dirs_exist_ok=True)


class TrainingCells:
    """Trains what is asked for, unless it is there already.

    Args:
        run: the run; its ``cells`` hold a folder a training.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def model(self, name: str, key: Mapping[str, Any], train: Train) -> Path:
        """The model directory of a training.

        Args:
            name: for logs and the folder's name.
            key: everything that the weights depend on.
            train: called when there is no model yet.
        """
        folder = self._run.path / "cells" / f"{file_name(name)}-{sha256_json(key)[:12]}"
        if not (folder / _MODEL).is_dir():
            started = time.perf_counter()
            rows = train(folder / "training", folder / _MODEL)
            shutil.rmtree(folder / "training", ignore_errors=True)
            seconds = round(time.perf_counter() - started, 1)
            self._run.log(cell="training", name=name, rows=rows, seconds=seconds)
            milestone(f"trained {name} on {rows} rows in {seconds:.0f} s")
        return folder / _MODEL

    def discard_all(self) -> None:
        """Remove every model."""
        shutil.rmtree(self._run.path / "cells", ignore_errors=True)
