"""A split's test side as a file: goals to attack a trained model with, and which of the four cells each style is in.

The file is a goals file of ``corral redteam run`` too; ``corral redteam cells`` reads it beside that run's report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from corral.core.errors import DataError
from corral.core.files import atomic_write_text
from corral.data.readers import Row, as_json, read_rows
from corral.redteam.egida.split import CELLS, Cell, Split
from corral.redteam.egida.topics import topics

HELD_OUT: Final = "held_out.jsonl"
_KEYS: Final = ("id", "topic_group", "cluster", "cells")


@dataclass(frozen=True)
class HeldOut:
    """What attack success on a test side is reported by.

    Attributes:
        cells: base id and style to cell.
        groups: base id to the coarse group of its first topic.
        clusters: base id to the name of its cluster of near duplicates.
    """

    cells: Mapping[tuple[str, str], Cell]
    groups: Mapping[str, str]
    clusters: Mapping[str, str]


def held_out_of(split: Split) -> HeldOut:
    """The test side of a split."""
    tested = {each.base.id: each.base for each in split.tested}
    return HeldOut(
        {(each.base.id, each.style): cell for cell in CELLS for each in split.test[cell]},
        {base_id: topics().group_of(base.topics[0]) for base_id, base in tested.items()},
        {base_id: split.clusters[base_id] for base_id in tested},
    )


def write_held_out(split: Split, path: Path) -> None:
    """Write the requests of the test side, one a line: what they ask, where they are from, and cells by style."""
    side = held_out_of(split)
    bases = {each.base.id: each.base for each in split.tested}
    cells: dict[str, dict[str, Cell]] = {base_id: {} for base_id in bases}
    for (base_id, style), cell in side.cells.items():
        cells[base_id][style] = cell
    rows = (
        {
            "id": base_id,
            "goal": base.goal.text,
            "category": base.goal.category,
            "language": base.goal.language,
            "source": base.goal.source,
            "licence": base.goal.licence,
            "topics": list(base.topics),
            "topic_group": side.groups[base_id],
            "cluster": side.clusters[base_id],
            "cells": cells[base_id],
        }
        for base_id, base in bases.items()
    )
    atomic_write_text(path, "".join(f"{as_json(row)}\n" for row in rows))


def read_held_out(path: Path) -> HeldOut:
    """Read what ``write_held_out`` wrote.

    Raises:
        NotFoundError: no such file.
        DataError: a malformed row (names it), an id twice, or no row.
    """
    cells: dict[tuple[str, str], Cell] = {}
    groups: dict[str, str] = {}
    clusters: dict[str, str] = {}
    for row in read_rows(path, strict=True):
        base_id, group, cluster = _texts(row)
        if base_id in groups:
            raise DataError(f"the id `{base_id}` again", where=row.where)
        groups[base_id], clusters[base_id] = group, cluster
        cells |= {(base_id, style): cell for style, cell in _cells(row)}
    if not groups:
        raise DataError("there are no requests", where=str(path), hint="`corral redteam mine` writes the file.")
    return HeldOut(cells, groups, clusters)


def _texts(row: Row) -> tuple[str, str, str]:
    found: list[Any] = [row.value.get(key) for key in _KEYS[:3]]
    if not all(isinstance(each, str) and each for each in found):
        raise DataError(
            "expected texts `id`, `topic_group` and `cluster`",
            where=row.where,
            hint=f"Give the `{HELD_OUT}` that `corral redteam mine` wrote.",
        )
    return found[0], found[1], found[2]


def _cells(row: Row) -> Iterable[tuple[str, Cell]]:
    named = row.value.get("cells")
    if not isinstance(named, Mapping) or not named:
        raise DataError("expected styles and their cells", where=f"{row.where}: cells")
    for style, name in named.items():
        cell = next((each for each in CELLS if each == name), None)
        if cell is None:
            raise DataError(f"`{name}` is no cell", where=f"{row.where}: cells", hint=f"One of: {', '.join(CELLS)}.")
        yield str(style), cell
