"""Finished blocks of an unfinished quantization, so that an interrupted one goes on where it was.

A folder beside the outcome holds ``settings.json`` and a safetensors file a block, each written whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from corral.core.errors import DataError, RunError
from corral.core.files import atomic_path, atomic_write_json, read_json
from corral.core.locks import lock_descriptor
from corral.models.quantized import PackedWeight
from corral.models.quantized.folder import described_layers, named_tensors, parse_layers

SUFFIX: Final = ".unfinished"
_SETTINGS: Final = "settings.json"
_BLOCKS: Final = "block-*.safetensors"
_LAYERS: Final = "layers"
_RECORDS: Final = "records"


class BlockStore:
    """See the module; made by ``block_store``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(
        self, number: int, weights: Mapping[str, PackedWeight], others: Mapping[str, Tensor], records: Sequence[Any]
    ) -> None:
        """Keep a block: its packed layers, its other tensors, and JSON about its layers."""
        tensors = {name: tensor.contiguous() for name, tensor in {**others, **named_tensors(weights)}.items()}
        about = {_LAYERS: json.dumps(described_layers(weights)), _RECORDS: json.dumps(records)}
        with atomic_path(self._path(number)) as temporary:
            save_file(tensors, temporary, about)

    def load(self, number: int) -> tuple[dict[str, PackedWeight], dict[str, Tensor], list[Any]] | None:
        """What ``save`` kept, ``None`` for a block that is not there or cannot be read."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as stored:
                about = stored.metadata()
                state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
            weights, others = parse_layers(json.loads(about[_LAYERS]), state, where=str(path))
            return weights, others, json.loads(about[_RECORDS])
        except (SafetensorError, DataError, KeyError, TypeError, ValueError):
            return None

    def _path(self, number: int) -> Path:
        return self._folder / _BLOCKS.replace("*", f"{number:03}")


@contextmanager
def block_store(out: Path, settings: Mapping[str, Any]) -> Iterator[BlockStore]:
    """The store of the blocks of ``out``; removed when the block ends without an error.

    Args:
        out: the folder that is being made.
        settings: everything that the blocks depend on; JSON.

    Raises:
        RunError: blocks of other settings are there, or another process is at work.
    """
    folder = out.with_name(out.name + SUFFIX)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock_descriptor(descriptor, folder)
        path = folder / _SETTINGS
        if any(folder.glob(_BLOCKS)) and read_json(path) != json.loads(json.dumps(settings)):
            raise RunError(
                "holds blocks of an unfinished quantization with other settings",
                where=str(folder),
                hint="Finish it with its own settings, remove the folder, or choose another `--out`.",
            )
        atomic_write_json(path, settings)
        try:
            yield BlockStore(folder)
        except BaseException:
            if not any(folder.glob(_BLOCKS)):
                shutil.rmtree(folder)  # nothing to go on with
            raise
        shutil.rmtree(folder)
    finally:
        os.close(descriptor)
