"""What a directory with MoGU's parts says about itself: ``routing.json``, read without a model library."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from corral.core.config import Config, load_config
from corral.core.errors import ConfigError, DataError
from corral.core.files import read_json

RECORD: Final = "routing.json"
PARTS: Final = {"unwill": "unwill.safetensors", "glad": "glad.safetensors", "router": "router.safetensors"}
GladMode = Literal["base", "trained"]


class RoutingRecord(Config):
    """Which model the parts belong to, and what they are.

    Attributes:
        format: of the directory.
        base: the model; a path begins with ``./`` or ``../`` and counts from the directory.
        base_revision: ``weights_revision`` of the model that the parts were trained on.
        base_layers: its decoder layers.
        inputs: of each gated projection.
        outputs: likewise.
        layers: that are gated.
        rank: of the experts.
        alpha: of the experts.
        glad: ``base`` where the eager variant is the model itself, ``trained`` where it has an expert.
        first_tokens: of an answer that the gated model writes before the base goes on.
        parts: SHA-256 of each part's file.
    """

    format: Literal["corral-routing/1"] = "corral-routing/1"
    base: str
    base_revision: str
    base_layers: int = Field(ge=1)
    inputs: int = Field(ge=1)
    outputs: int = Field(ge=1)
    layers: tuple[int, ...] = Field(min_length=1)
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    glad: GladMode = "base"
    first_tokens: int = Field(5, ge=1)
    parts: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> RoutingRecord:
        """The record of a directory.

        Raises:
            NotFoundError: there is none.
            DataError: it is not a record of this kind.
        """
        path = folder / RECORD
        value = read_json(path)
        if not isinstance(value, dict):
            raise DataError("expected an object", where=str(path))
        try:
            return load_config(cls, value)
        except ConfigError as error:
            raise DataError(f"is not a record of routing: {error.message}", where=str(path)) from error

    def base_reference(self, folder: Path) -> str:
        """The base as ``models/loading`` takes it."""
        if self.base.startswith(("./", "../")):
            return str((folder / self.base).resolve())
        return self.base


def has_routing(folder: Path) -> bool:
    """Whether a folder holds MoGU's parts instead of a whole model."""
    return (folder / RECORD).is_file()


def stored_base(base: str, folder: Path) -> str:
    """The reference of a base as a record keeps it: a folder by its path from the directory, so that both can move."""
    if not Path(base).is_dir():
        return base
    relative = Path(os.path.relpath(Path(base).resolve(), folder.resolve())).as_posix()
    return relative if relative.startswith("../") else f"./{relative}"
