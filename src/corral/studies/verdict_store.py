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
from corral.core.progress import milestone, progress
from corral.core.runs import Run
from corral.data.examples import ModerationExample
from corral.data.messages import TARGETS
from corral.guards.asking import ask
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
            missing = [row for row in rows if _id(row) not in journal]
            if missing:
                self._ask(name, guard(), missing, journal)
            found = {entry["id"]: entry for entry in journal.entries()}
        return _judged([found[_id(row)] for row in rows])

    def _ask(self, name: str, guard: Guard, rows: Sequence[ModerationExample], journal: Journal) -> None:
        started = time.perf_counter()
        # Rows of one length are asked together, which pads less; the journal knows them by name.
        ordered = sorted({_id(row): row for row in rows}.values(), key=lambda row: (row.target, len(row.text)))
        with progress(len(ordered), f"Scoring by {name}") as bar:
            for start in range(0, len(ordered), self._batch):
                batch = ordered[start : start + self._batch]
                for row, verdict in zip(batch, _verdicts(guard, batch), strict=True):
                    journal.append(_entry(row, verdict))
                journal.flush()
                bar.advance(len(batch))
        seconds = time.perf_counter() - started
        milestone(f"scored {len(ordered)} rows by {name} in {seconds:.0f} s")
        self._run.log(cell="scores", name=name, file=journal.path.name, rows=len(ordered), seconds=seconds)


def _verdicts(guard: Guard, rows: Sequence[ModerationExample]) -> list[Verdict]:
    verdicts: list[Verdict | None] = [None] * len(rows)
    for target in TARGETS:
        wanted = [i for i, row in enumerate(rows) if row.target == target]
        answers = ask(guard, [rows[i].conversation for i in wanted], target=target) if wanted else []
        for i, verdict in zip(wanted, answers, strict=True):
            verdicts[i] = verdict
    return [verdict for verdict in verdicts if verdict is not None]


def _id(row: ModerationExample) -> str:
    """A row's name, and a hash of what is judged: a source whose text changes is judged anew."""
    judged = sha256_json([row.conversation.to_openai(), row.target])[:8]
    return f"{row.source}/{row.id}#{judged}"


def _entry(row: ModerationExample, verdict: Verdict) -> dict[str, Any]:
    return {
        "id": _id(row),
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
