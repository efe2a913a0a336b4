"""Importing the optional libraries of ``corral[media]``, with an error that says what to install."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from corral.core.errors import MissingDependencyError


def media_library(name: str) -> Any:
    """A module of Pillow, PyAV or ONNX Runtime.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"images and clips need the package of `{name}`, which is not installed",
            hint="pip install 'corral[media]'",
        ) from error
