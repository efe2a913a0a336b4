"""Moderation rows written for this project: one-sentence requests, benign look-alikes, replies and refusals.

Harmful requests name what is wanted, never how. Read with ``self_written_rows``; licence Apache-2.0. A set is a file,
or a folder with a file for each language, whose rows have the short form of ``short_rows``, or made of parts
(``phrases``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

from corral.core.errors import NotFoundError
from corral.data.examples import ModerationExample, example_from_json
from corral.data.self_written.phrases import FILE, STEM, phrase_rows
from corral.data.self_written.short_rows import example_from_short_row
from corral.data.sources import SOURCES

PREFIX: Final = "self_written/"
MEASURING: Final = frozenset({"benign_controls", "benign_lookalikes"})
"""Sets that measure guards and models: never trained on, and nothing that ships is fitted on them."""


def may_train(name: str) -> bool:
    """Whether weights that ship may be trained on a source: a public one whose licence lets them, or one of ours.

    Raises:
        NotFoundError: no public source has that name.
    """
    if name.startswith(PREFIX):
        return name.removeprefix(PREFIX) not in MEASURING
    return SOURCES.get(name).trainable


def self_written_rows(name: str) -> Iterator[ModerationExample]:
    """The rows of the packaged set ``name`` (with or without ``self_written/``), in order of its files and lines.

    Raises:
        NotFoundError: no such set.
    """
    stem = name.removeprefix(PREFIX)
    folder = resources.files(__name__)
    if stem == STEM:
        for row, value in phrase_rows():
            provenance = {"source": f"{PREFIX}{stem}", "licence": "Apache-2.0", "id": row}
            yield example_from_short_row({**provenance, **value}, where=f"{FILE}: {row}")
        return
    if folder.joinpath(f"{stem}.jsonl").is_file():
        for number, value in _lines(folder.joinpath(f"{stem}.jsonl")):
            provenance = {"source": f"{PREFIX}{stem}", "licence": "Apache-2.0", "id": str(number)}
            yield example_from_json({**provenance, **value}, where=f"{stem}.jsonl:{number}")
        return
    files = _language_files(folder.joinpath(stem)) if stem.isidentifier() else []
    if not files:
        raise NotFoundError(f"no self-written rows are called `{stem}`")
    for file in files:
        yield from _short_rows(stem, file)


def _short_rows(stem: str, file: Traversable) -> Iterator[ModerationExample]:
    for number, value in _lines(file):
        name = file.name.removesuffix(".jsonl")
        provenance = {"source": f"{PREFIX}{stem}", "licence": "Apache-2.0", "id": f"{name}:{number}"}
        yield example_from_short_row({**provenance, **value}, where=f"{stem}/{file.name}:{number}")


def _language_files(folder: Traversable) -> list[Traversable]:
    """Files of a set in the order of their names; none when there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted((file for file in folder.iterdir() if file.name.endswith(".jsonl")), key=lambda file: file.name)


def _lines(file: Traversable) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        yield number, json.loads(line)
