"""Verdicts of a study, each row judged once a guard and kept without its text: claims need no models."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from corral.core.files import sha256_json
from corral.core.journal import Journal
from corral.core.metric_inputs import Flags, Floats
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.data.examples import ModerationExample
from corral.evals.tasks.scoring import judge_rows
from corral.guards.base import Guard, Status, Verdict

THRESHOLD: Final = 0.5


@dataclass(frozen=True)
class Judged:
    """What a guard says about rows, in their order.

    Attributes:
        scores: (N,) probability of harm; 1 where the guard could not answer, which the default policy blocks.
        codes: qualified codes of the categories that the verdict names; none where they were not asked for.
        answered: (N,) whether the guard could answer.
        categories: qualified code to score, of every category that the verdict scores.
    """

    scores: Floats
    codes: tuple[frozenset[str], ...]
    answered: Flags
    categories: tuple[Mapping[str, float], ...]

    @property
    def unscored(self) -> int:
        """Rows that the guard could not answer."""
        return int((~self.answered).sum())

    @property
    def flagged(self) -> Flags:
        """(N,) decisions at the published threshold."""
        flags: Flags = self.scores >= THRESHOLD
        return flags

    def category_scores(self, code: str) -> Floats:
        """(N,) of one category by its decoded code: the score where the verdict names it, else 0."""
        named = np.array([code in codes for codes in self.codes])
        return np.where(named, self.scores, 0.0)


class VerdictStore:
    """Journals of verdicts in a run directory, one a guard.

    Args:
        run: the run.
        batch: rows a call; scores reach the disk after each.
    """

    def __init__(self, run: Run, *, batch: int) -> None:
        self._run = run
        self._batch = batch

    def judge_by(
        self, name: str, key: Mapping[str, Any], rows: Sequence[ModerationExample], guard: Callable[[], Guard]
    ) -> Judged:
        """Rows as any guard judges them.

        Args:
            name: for logs and the file's name.
            key: everything that the scores depend on beside the rows.
            rows: what is judged.
            guard: makes the guard, when there are rows that it has not judged before.
        """
        path = self._run.path / "scores" / f"{file_name(name)}-{sha256_json(key)[:16]}.jsonl"
        path.parent.mkdir(exist_ok=True)
        with Journal.open(path, key="id", fingerprint=key) as journal:
            missing = {_id(row): row for row in rows if _id(row) not in journal}
            failed = self._ask(name, guard(), missing, journal) if missing else {}
            found = {entry["id"]: entry for entry in journal.entries()} | failed
        return _judged([found[_id(row)] for row in rows])

    def _ask(
        self, name: str, guard: Guard, rows: Mapping[str, ModerationExample], journal: Journal
    ) -> dict[str, Mapping[str, Any]]:
        started = time.perf_counter()
        # Rows of one length are asked together, which pads less; the journal knows them by name.
        ordered = dict(sorted(rows.items(), key=lambda item: (item[1].target, len(item[1].text))))
        title = f"Scoring by {name}"
        failed = judge_rows(guard, ordered, journal, batch_size=self._batch, title=title, entry=_entry)
        seconds = time.perf_counter() - started
        milestone(f"scored {len(ordered)} rows by {name} in {seconds:.0f} s")
        self._run.log(cell="scores", name=name, file=journal.path.name, rows=len(ordered), seconds=seconds)
        return failed


def _id(row: ModerationExample) -> str:
    """A row's name, and a hash of what is judged: a source whose text changes is judged anew."""
    judged = sha256_json([row.conversation.to_openai(), row.target])[:8]
    return f"{row.source}/{row.id}#{judged}"


def _entry(key: str, row: ModerationExample, verdict: Verdict) -> dict[str, Any]:
    return {
        "id": key,
        "group": row.group,
        "harmful": row.harmful,
        "labels": sorted(code for code, present in row.categories.items() if present),
        "status": verdict.status.value,
        "p_harm": verdict.p_harm,
        "codes": sorted(verdict.categories),
        "categories": dict(verdict.categories),
        "detail": verdict.detail,
    }


def _judged(entries: Sequence[Mapping[str, Any]]) -> Judged:
    answered = [entry["status"] == Status.OK.value and entry["p_harm"] is not None for entry in entries]
    scores = [entry["p_harm"] if ok else 1.0 for entry, ok in zip(entries, answered, strict=True)]
    return Judged(
        np.array(scores, dtype=np.float64),
        tuple(frozenset(entry["codes"]) for entry in entries),
        np.array(answered, dtype=np.bool_),
        tuple(entry["categories"] for entry in entries),
    )


def file_name(name: str) -> str:
    """A name as part of a file name."""
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in name)
