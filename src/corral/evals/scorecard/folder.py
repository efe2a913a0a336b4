"""A scorecard on disk: ``scorecard.json`` and, beside it, the per-sample scores that a comparison pairs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from corral.core.errors import DataError, NotFoundError
from corral.core.files import atomic_write_bytes, atomic_write_json, read_json
from corral.evals.scorecard.results import Scorecard
from corral.evals.tasks.task import SampleScore

SCORECARD: Final = "scorecard.json"
SAMPLES: Final = "samples.jsonl"

Samples = Mapping[str, Sequence[SampleScore]]
"""Task to its samples."""


def samples_bytes(samples: Samples, *, show_content: bool) -> bytes:
    """``samples.jsonl``: a line a sample, tasks one after another. Texts only where they are asked for."""
    lines = []
    for task, of_task in samples.items():
        for sample in of_task:
            line: dict[str, Any] = {"task": task, "id": sample.id, "cluster": sample.cluster, "group": sample.group}
            line["values"] = dict(sample.values)
            if show_content and sample.texts:
                line["texts"] = dict(sample.texts)
            lines.append(json.dumps(line, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n")
    return "".join(lines).encode()


def samples_hash(data: bytes) -> str:
    """SHA-256 of ``samples.jsonl``, in hex."""
    return hashlib.sha256(data).hexdigest()


def write_scorecard(card: Scorecard, samples: bytes, out: Path) -> None:
    """Write both files; the samples first, so that a ``scorecard.json`` always has the samples that it names."""
    atomic_write_bytes(out / SAMPLES, samples)
    atomic_write_json(out / SCORECARD, scorecard_json(card))


def scorecard_json(card: Scorecard) -> dict[str, Any]:
    """What ``scorecard.json`` holds: the scorecard, and ``measures``, a flat list of every figure."""
    measures = [row.model_dump(mode="json") for row in card.rows()]
    return {**card.model_dump(mode="json", exclude={"tasks"}), "measures": measures, "tasks": _tasks(card)}


def read_scorecard(folder: Path) -> tuple[Scorecard, dict[str, tuple[SampleScore, ...]]]:
    """A scorecard and its samples by task.

    Args:
        folder: that ``write_scorecard`` wrote to.

    Raises:
        NotFoundError: there is no scorecard.
        DataError: it was written by another version of Corral's schema, or its samples are not those it was written
            with.
    """
    path = folder / SCORECARD
    if not path.is_file():
        raise NotFoundError(
            "there is no scorecard in the folder",
            where=str(folder),
            hint=f"Run `corral eval scorecard MODEL --out {folder}` first.",
        )
    found = read_json(path)
    try:
        card = Scorecard.model_validate({key: value for key, value in found.items() if key != "measures"})
    except (ValidationError, AttributeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "not an object"}
        field = ".".join(map(str, first["loc"]))
        raise DataError(
            f"not a scorecard of this version: `{field}`: {first['msg']}",
            where=str(path),
            hint="Run the scorecard again; what was answered comes from the cache.",
        ) from error
    return card, _read_samples(folder / SAMPLES, card)


def _tasks(card: Scorecard) -> list[dict[str, Any]]:
    return [entry.model_dump(mode="json") for entry in card.tasks]


def _read_samples(path: Path, card: Scorecard) -> dict[str, tuple[SampleScore, ...]]:
    if not path.is_file():
        raise NotFoundError("the samples of the scorecard are gone", where=str(path), hint=_AGAIN)
    data = path.read_bytes()
    if samples_hash(data) != card.samples_sha256:
        raise DataError("the samples are not those of the scorecard beside them", where=str(path), hint=_AGAIN)
    by_task: dict[str, list[SampleScore]] = {entry.task: [] for entry in card.tasks}
    for task, sample in _parsed(data):
        by_task[task].append(sample)
    return {task: tuple(samples) for task, samples in by_task.items()}


def _parsed(data: bytes) -> Iterator[tuple[str, SampleScore]]:
    for line in data.splitlines():
        row = json.loads(line)
        texts = row.get("texts", {})
        yield row["task"], SampleScore(row["id"], row["cluster"], row["values"], row["group"], texts)


_AGAIN: Final = "Run the scorecard again; what was answered comes from the cache."
