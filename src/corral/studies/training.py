"""The training modules, whose libraries come with an extra."""

from __future__ import annotations

import importlib
from types import ModuleType

from corral.core.errors import MissingDependencyError


def training_module(name: str) -> ModuleType:
    """A module of ``corral.train``, imported when a run comes to train: ``training_module("guard.classifier")``.

    Raises:
        MissingDependencyError: a training library is not installed.
    """
    try:
        return importlib.import_module(f"corral.train.{name}")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"training needs `{error.name}`, which is not installed", hint="pip install 'corral[train]'"
        ) from error
