"""Models that runs of other recipes trained, found by the recipe and the name of the training."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from corral.core.errors import NotFoundError
from corral.core.runs import Run, list_runs
from corral.studies.defences.settings import TrainedConfig


class TrainedModel(NamedTuple):
    """A model of another run, for ``studies.trained_models``.

    Attributes:
        base: what it was trained from.
        folder: an adapter, a model directory or routing parts.
    """

    base: str
    folder: Path


def find_trained(wanted: TrainedConfig, runs: Path) -> TrainedModel:
    """The model of the newest finished run of a recipe.

    Args:
        wanted: which.
        runs: folder of all runs.

    Raises:
        NotFoundError: no such run, or no such training in it.
    """
    for run in list_runs(runs / wanted.recipe):
        if run.manifest.recipe == wanted.recipe and run.status == "finished":
            return _model_of(run, wanted)
    raise NotFoundError(
        f"no finished run of `{wanted.recipe}`",
        where=str(runs),
        hint=f"`corral recipes run {wanted.recipe}` first, or leave the systems out that it trains.",
    )


def _model_of(run: Run, wanted: TrainedConfig) -> TrainedModel:
    trainings = sorted(run.path.glob("cells/*/model"))
    found = [folder for folder in trainings if folder.parent.name.rpartition("-")[0] == wanted.training]
    if not found:
        names = ", ".join(sorted({folder.parent.name.rpartition("-")[0] for folder in trainings})) or "none"
        raise NotFoundError(f"no training `{wanted.training}` in the run; it has {names}", where=str(run.path))
    newest = max(found, key=lambda folder: folder.stat().st_mtime)
    return TrainedModel(str(run.config.get("base") or run.config["target"]), newest)
