"""Runs the matrix: every item, moderator and condition to a cell, remembered as it is done.

A moderator's cells are in a journal of its own, named by its revision, each under item, content and condition. A rerun
judges what is missing; a run that was cut off can be reported on as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from corral.core.journal import Journal
from corral.core.progress import progress
from corral.evals.tasks.content_moderation.conditions import Condition
from corral.evals.tasks.content_moderation.items import Item
from corral.evals.tasks.content_moderation.moderators import ItemModerator
from corral.guards.base import Status, Verdict

TASK: Final = "content_moderation"
TASK_VERSION: Final = "1"
"""Raised whenever items, conditions or rules change, so that figures stay apart."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one moderator said of one item under one condition; fields as of ``Verdict``. Never holds text."""

    item: str
    moderator: str
    condition: str
    status: Status
    flagged: bool | None
    p_harm: float | None
    windows: int
    latency_ms: float
    detail: str | None


@dataclass(frozen=True)
class MatrixResult:
    """The cells that are there, and the keys of those that are missing (``moderator item condition``)."""

    items: Mapping[str, Item]
    moderators: Mapping[str, ItemModerator]
    cells: tuple[Cell, ...]
    missing: tuple[str, ...]

    def of(self, moderator: str, condition: str = "plain") -> list[Cell]:
        """Cells of one moderator under one condition, in the order of the items."""
        return [cell for cell in self.cells if (cell.moderator, cell.condition) == (moderator, condition)]


def merged(results: Sequence[MatrixResult]) -> MatrixResult:
    """One result of several matrices, such as of a slow moderator that sees fewer items than the others."""
    return MatrixResult(
        {id: item for result in results for id, item in result.items.items()},
        {name: each for result in results for name, each in result.moderators.items()},
        tuple(dict.fromkeys(cell for result in results for cell in result.cells)),
        tuple(dict.fromkeys(key for result in results for key in result.missing)),
    )


@dataclass(frozen=True)
class Matrix:
    """Items x moderators x conditions.

    Attributes:
        items: what is judged.
        moderators: names differ.
        conditions: how items are shown; those that do not apply to an item's modality are passed over.
            folder: of the journals.
        batch_size: items a call.
    """

    items: Sequence[Item]
    moderators: Sequence[ItemModerator]
    conditions: Sequence[Condition]
    folder: Path
    batch_size: int = 32

    def run(self) -> MatrixResult:
        """Judge what no earlier run has judged, and give everything.

        Raises:
            UserError: a journal was written by another version of the task.
        """
        for moderator in self.moderators:
            with self._journal(moderator) as journal:
                self._judge(moderator, journal)
        return self.result()

    def result(self) -> MatrixResult:
        """What has been judged so far; judges nothing."""
        cells: list[Cell] = []
        missing: list[str] = []
        for moderator in self.moderators:
            with self._journal(moderator) as journal:
                found = {row["key"]: row for row in journal.entries()}
            for condition, item in self._cells(moderator):
                row = found.get(_key(item, condition))
                if row is None:
                    missing.append(f"{moderator.name} {item.id} {condition.key}")
                else:
                    cells.append(_cell(row, moderator.name, item, condition))
        return MatrixResult(
            {item.id: item for item in self.items},
            {moderator.name: moderator for moderator in self.moderators},
            tuple(cells),
            tuple(missing),
        )

    def _cells(self, moderator: ItemModerator) -> Iterator[tuple[Condition, Item]]:
        for condition in self.conditions:
            for item in self.items:
                if item.modality in moderator.modalities and condition.applies_to(item.modality):
                    yield condition, item

    def _judge(self, moderator: ItemModerator, journal: Journal) -> None:
        todo: dict[str, list[Item]] = {}
        conditions = {}
        for condition, item in self._cells(moderator):
            if _key(item, condition) not in journal:
                todo.setdefault(condition.key, []).append(item)
                conditions[condition.key] = condition
        with progress(sum(map(len, todo.values())), moderator.name) as bar:
            for key, items in todo.items():
                for start in range(0, len(items), self.batch_size):
                    batch = items[start : start + self.batch_size]
                    for item, verdict in zip(batch, moderator.judge(batch, conditions[key]), strict=True):
                        journal.append({"key": _key(item, conditions[key]), **_kept(verdict)})
                    journal.flush()
                    bar.advance(len(batch))

    def _journal(self, moderator: ItemModerator) -> Journal:
        name = re.sub(r"[^\w.-]", "_", f"{moderator.name}@{moderator.revision}")
        self.folder.mkdir(parents=True, exist_ok=True)
        fingerprint = {"task": TASK, "task_version": TASK_VERSION, "moderator": moderator.name}
        return Journal.open(self.folder / f"{name}.jsonl", key="key", fingerprint=fingerprint)


def _key(item: Item, condition: Condition) -> str:
    return f"{item.id}|{item.content_hash}|{condition.key}"


def _kept(verdict: Verdict) -> dict[str, Any]:
    return {
        "status": verdict.status.value,
        "flagged": verdict.flagged,
        "p_harm": verdict.p_harm,
        "windows": verdict.windows,
        "latency_ms": round(verdict.latency_ms, 3),
        "detail": verdict.detail,
    }


def _cell(row: Mapping[str, Any], moderator: str, item: Item, condition: Condition) -> Cell:
    return Cell(
        item.id,
        moderator,
        condition.key,
        Status(row["status"]),
        row["flagged"],
        row["p_harm"],
        row["windows"],
        row["latency_ms"],
        row["detail"],
    )
