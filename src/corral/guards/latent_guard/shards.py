"""Readings of many prompts on disk, in shards: a killed job goes on after its last whole shard.

A folder holds ``shards.json`` (what the readings depend on) and ``shard-00000.safetensors`` and so on, each written
whole or not at all. A prompt that could not be read keeps its row, which says so. No text is kept.

Legend: N rows, S sites, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from corral.core.errors import CorralError, RunError, UserError
from corral.core.files import atomic_path, atomic_write_json, read_json, sha256_json
from corral.core.progress import progress
from corral.data.messages import Conversation

if TYPE_CHECKING:
    from corral.guards.latent_guard.centres import Position
    from corral.guards.latent_guard.reading import LatentReader, Reading

SHARDS: Final = "shards.json"
SHARD_ROWS: Final = 64
_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Readings:
    """Readings of N prompts, in their order.

    Attributes:
        inst_NSD: states at the last token of the instruction, float32; zeros where unread.
        post_NSD: states at the last token of the prompt.
        refusal_N: refusal scores, float64.
        read_N: whether the prompt could be read.
    """

    inst_NSD: NDArray[np.float32]
    post_NSD: NDArray[np.float32]
    refusal_N: NDArray[np.float64]
    read_N: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.refusal_N)

    def at(self, position: Position) -> NDArray[np.float32]:
        """States at the last token of the instruction or of the prompt."""
        return self.inst_NSD if position == "instruction" else self.post_NSD

    def rows(self, index: Any) -> Readings:
        """Some of the rows, by indices or a mask."""
        return Readings(self.inst_NSD[index], self.post_NSD[index], self.refusal_N[index], self.read_N[index])


class ReadingShards:
    """The readings of given prompts by a given model, in a folder.

    Args:
        folder: made when missing.
        conversations: the prompts.
        revision: of what reads them (``LatentReader.revision``).
        shard_rows: prompts a shard.

    Raises:
        UserError: the folder holds readings of other prompts or another model.
    """

    def __init__(
        self, folder: Path, conversations: Sequence[Conversation], revision: str, *, shard_rows: int = SHARD_ROWS
    ) -> None:
        self._folder = folder
        self._conversations = conversations
        self._rows = shard_rows
        fingerprint = {
            "schema_version": _SCHEMA,
            "revision": revision,
            "prompts": sha256_json([conversation.to_openai() for conversation in conversations]),
            "rows": len(conversations),
            "shard_rows": shard_rows,
        }
        if (folder / SHARDS).exists() and read_json(folder / SHARDS) != fingerprint:
            raise UserError(
                "holds readings of other prompts or by another model",
                where=str(folder),
                hint="Choose another folder, or remove this one.",
            )
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_json(folder / SHARDS, fingerprint)

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards that are still to be read."""
        return [number for number in range(self._count) if not self._path(number).is_file()]

    def complete(self, reader: LatentReader, *, description: str = "Reading activations") -> None:
        """Read what is missing; each shard is on disk before the next is begun."""
        for number in progress(self.missing, description):
            start = number * self._rows
            _write(self._path(number), reader.read(self._conversations[start : start + self._rows]), reader)

    def parts(self) -> Iterator[Readings]:
        """The readings, a shard at a time.

        Raises:
            RunError: not all have been read, or a shard is damaged.
        """
        if self.missing:
            raise RunError(f"{len(self.missing)} shards are missing", where=str(self._folder), hint="Run it again.")
        yield from (_load(self._path(number)) for number in range(self._count))

    def all(self) -> Readings:
        """All readings at once.

        Raises:
            RunError: see ``parts``; or there are none.
        """
        parts = list(self.parts())
        if not parts:
            raise RunError("there are no readings", where=str(self._folder))
        fields = ("inst_NSD", "post_NSD", "refusal_N", "read_N")
        return Readings(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))

    @property
    def _count(self) -> int:
        return -(-len(self._conversations) // self._rows)

    def _path(self, number: int) -> Path:
        return self._folder / f"shard-{number:05d}.safetensors"


def _write(path: Path, readings: Sequence[Reading | CorralError], reader: LatentReader) -> None:
    from safetensors.numpy import save_file

    shape = (len(readings), len(reader.sites), int(reader.engine.model.config.hidden_size))
    inst, post = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    refusal, read = np.zeros(len(readings)), np.zeros(len(readings), np.uint8)
    for row, reading in enumerate(readings):
        if not isinstance(reading, CorralError):
            inst[row], post[row], refusal[row], read[row] = reading.inst_SD, reading.post_SD, reading.refusal, 1
    with atomic_path(path) as temporary:
        save_file({"inst": inst, "post": post, "refusal": refusal, "read": read}, temporary)


def _load(path: Path) -> Readings:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        return Readings(tensors["inst"], tensors["post"], tensors["refusal"], tensors["read"].astype(bool))
    except (SafetensorError, KeyError) as error:
        raise RunError(
            "the shard is damaged", where=str(path), hint="Remove it; the same command reads it again."
        ) from error
