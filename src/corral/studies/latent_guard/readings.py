"""The readings of the study: every prompt once by a model, kept in shards so that a killed run goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from corral.core.progress import milestone
from corral.core.runs import Run
from corral.data.messages import Conversation
from corral.guards.latent_guard.reading import LatentReader
from corral.guards.latent_guard.shards import Readings, ReadingShards
from corral.models.engines.torch import TorchEngine
from corral.models.loading import find_dtype, weights_revision


class StudyReadings:
    """What one model gives for the study's prompts.

    Args:
        run: takes the shards, beside its artefacts, and a line a set.
        model: reference.
        dtype: of its weights.
        shard_rows: prompts a shard.
        step_back: see ``models.positions.locate``.
    """

    def __init__(self, run: Run, model: str, *, dtype: str, shard_rows: int, step_back: bool = False) -> None:
        self._run = run
        self._shard_rows = shard_rows
        engine = TorchEngine.load(model, dtype=find_dtype(dtype))
        self.reader = LatentReader(engine, revision=weights_revision(model), step_back=step_back)

    def of(self, name: str, conversations: Sequence[Conversation]) -> Readings:
        """Readings of the study's model; read now unless they are on disk."""
        started = time.perf_counter()
        shards = self.shards(name, conversations, self.reader.revision)
        missing = len(shards.missing)
        shards.complete(self.reader, description=f"Reading {name}")
        if missing:
            seconds = round(time.perf_counter() - started, 1)
            self._run.log(readings=name, prompts=len(conversations), seconds=seconds)
            milestone(f"{name}: {len(conversations)} prompts read in {seconds:.0f} s")
        return shards.all()

    def shards(self, name: str, conversations: Sequence[Conversation], revision: str) -> ReadingShards:
        """The shards of a set of prompts, complete or not."""
        return ReadingShards(self.folder / name, conversations, revision, shard_rows=self._shard_rows)

    @property
    def folder(self) -> Path:
        """Where the shards are; what is in it is not an artefact."""
        return self._run.path / "activations"
