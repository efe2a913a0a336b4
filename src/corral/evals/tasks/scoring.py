"""Running a guard over evaluation sets: each row judged once, kept in a journal, and read back as scores."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from corral.core.errors import NotFoundError
from corral.core.journal import Journal
from corral.core.metric_inputs import as_binary
from corral.core.progress import milestone, progress
from corral.data.examples import ModerationExample
from corral.data.mixture import matches
from corral.data.sources import load_source
from corral.data.sources.public_columns import read_public_column
from corral.data.splits import draw_groups
from corral.evals.results import Skipped
from corral.evals.scored import ScoredSet, scores_of
from corral.evals.tasks.eval_set import EvalSet
from corral.evals.tasks.styled_sets import styled_rows
from corral.guards.asking import ask
from corral.guards.base import Guard, Status, Verdict
from corral.guards.composition.costs import Asked, CompositionCost, asked_of
from corral.guards.composition.verdict import ComposedVerdict
from corral.redteam.styles import load_style

TASK_VERSION: Final = "1"
"""Raised whenever a set, a truth or a rule of the moderation task changes, so that figures stay apart."""

JournalRow = Callable[[str, ModerationExample, Verdict], Mapping[str, Any]]
"""From a key, its row and the verdict to what is kept under ``id``."""


@dataclass(frozen=True)
class ScoredGuard:
    """One guard's scores on every set that could be measured, and why the others could not."""

    name: str
    revision: str
    taxonomy: str
    sets: Mapping[str, ScoredSet]
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class SetRows:
    """A set and the rows of it that are judged, in the order of the source.

    ``total`` is how many rows the set has; more than ``rows`` under a limit.
    """

    eval_set: EvalSet
    rows: tuple[ModerationExample, ...]
    total: int


@dataclass
class RowLoader:
    """Reads the rows of sets, each file of a source once.

    Attributes:
        root: the data folder; ``data_root()`` when ``None``.
        limit: at most this many rows a set, whole groups drawn at random; all when ``None``. Translations share the
            group of their English row, so the draws from the languages of a family are aligned.
        samples: the limit of single sets, by name, in place of ``limit``.
        seed: of the draw.
    """

    root: Path | None = None
    limit: int | None = None
    samples: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    _read: dict[tuple[str, tuple[str, ...]], list[ModerationExample]] = field(default_factory=dict, init=False)

    def load(self, eval_set: EvalSet) -> SetRows:
        """The rows of a set.

        Raises:
            NotFoundError: the source is not in the data folder.
            DataError: a file differs from the record, or has not the published counts, or a row is malformed.
        """
        if eval_set.given is not None:
            return self._drawn(eval_set, list(eval_set.given))
        key = (eval_set.source, (str(eval_set.file),) if eval_set.file else eval_set.files)
        if key not in self._read:
            self._read[key] = self._rows(eval_set)
        chosen = self._drawn(eval_set, self._read[key])
        if not eval_set.style:
            return chosen
        return replace(chosen, rows=tuple(styled_rows(chosen.rows, eval_set.style, seed=self.seed)))

    def _drawn(self, eval_set: EvalSet, rows: Sequence[ModerationExample]) -> SetRows:
        """Those of the rows that belong to the set, as many as its limit lets in."""
        rows = [
            row
            for row in rows
            if row.target == eval_set.target and matches(row, eval_set.where) and eval_set.truth(row) is not None
        ]
        limit = self.samples.get(eval_set.name, self.limit)
        return SetRows(eval_set, tuple(draw_groups(rows, limit, seed=self.seed)), len(rows))

    def _rows(self, eval_set: EvalSet) -> list[ModerationExample]:
        if eval_set.file is not None:
            return read_public_column(eval_set.source, eval_set.file)
        return list(load_source(eval_set.source, root=self.root, files=eval_set.files or None))


class GuardScorer:
    """Judges rows with one guard and remembers every verdict under a folder.

    The journal of a source is shared by all sets that read its rows, and a rerun, with other sets or another limit,
    judges only rows that no earlier run has judged.

    Args:
        guard: judges.
        folder: where the journals of this guard go.
        batch_size: rows a call; what was judged reaches the disk after each call.
        resume: false forgets what earlier runs judged.
    """

    def __init__(self, guard: Guard, folder: Path, *, batch_size: int = 128, resume: bool = True) -> None:
        self._guard = guard
        self._folder = folder
        self._batch_size = batch_size
        self._resume = resume
        self._begun: set[Path] = set()
        self._failed: dict[Path, dict[str, Mapping[str, Any]]] = {}

    def score(self, chosen: SetRows) -> ScoredSet | None:
        """The set as the guard scores it; ``None`` when the guard does not answer the set's question.

        A row that the guard fails on is unscored, and judged again in the next run.

        Raises:
            UserError: the journal was written by another revision of the guard or from other data.
        """
        eval_set = chosen.eval_set
        path = journal_path(self._folder, eval_set)
        resume = self._resume or path in self._begun
        with Journal.open(path, key="id", fingerprint=self._fingerprint(eval_set), resume=resume) as journal:
            self._begun.add(path)
            failed = self._failed.setdefault(path, {})
            missing = {row.id: row for row in chosen.rows if row.id not in journal and row.id not in failed}
            title = f"{self._guard.name}: {eval_set.name}"
            failed |= judge_rows(self._guard, missing, journal, batch_size=self._batch_size, title=title)
            found = {entry["id"]: entry for entry in journal.entries()} | failed
        return _scored_set(chosen, found, self._guard.name, self._guard.revision)

    def _fingerprint(self, eval_set: EvalSet) -> dict[str, Any]:
        return {
            "task": "moderation",
            "task_version": TASK_VERSION,
            "guard": self._guard.name,
            "revision": self._guard.revision,
            "files": dict(eval_set.checksums),
            "target": eval_set.target,
            **({"style": load_style(eval_set.style).id} if eval_set.style else {}),
        }


def journal_row(key: str, row: ModerationExample, verdict: Verdict) -> dict[str, Any]:
    """What is kept of a verdict by default: never a text."""
    del row
    return {
        "id": key,
        "status": verdict.status.value,
        "flagged": verdict.flagged,
        "p_harm": verdict.p_harm,
        "p_refusal": verdict.p_refusal,
        "p_attack": verdict.p_attack,
        "windows": verdict.windows,
        "latency_ms": verdict.latency_ms,
        "detail": verdict.detail,
        **_composition(verdict),
    }


def judge_rows(
    guard: Guard,
    rows: Mapping[str, ModerationExample],
    journal: Journal,
    *,
    batch_size: int,
    title: str,
    entry: JournalRow = journal_row,
) -> dict[str, Mapping[str, Any]]:
    """Judge rows and journal each answer under the row's key; a batch reaches the disk before the next begins.

    Answers that say something of the row are kept, also that it cannot be read. A transient
    failure of the guard is not: a server that was down says nothing of the row, and the next run asks again.

    Args:
        guard: judges.
        rows: by key, none of them in the journal yet; each is judged by its own target.
        journal: keyed by ``id``.
        batch_size: rows a call, all of one target.
        title: of the progress bar.
        entry: what is kept of a verdict.

    Returns:
        What would have been kept of the rows that the guard failed on, by key.
    """
    failed: dict[str, Mapping[str, Any]] = {}
    with progress(len(rows), title) as bar:
        for target in dict.fromkeys(row.target for row in rows.values()):
            keys = [key for key, row in rows.items() if row.target == target]
            for start in range(0, len(keys), batch_size):
                batch = keys[start : start + batch_size]
                verdicts = ask(guard, [rows[key].conversation for key in batch], target=target)
                for key, verdict in zip(batch, verdicts, strict=True):
                    said = entry(key, rows[key], verdict)
                    if verdict.status.transient:
                        failed[key] = said
                    else:
                        journal.append(said)
                journal.flush()
                bar.advance(len(batch))
    if failed:
        first = next(iter(failed.values())).get("detail") or "no reason was given"
        milestone(f"{title}: failed on {len(failed):,} of {len(rows):,} rows, which a rerun asks again: {first}")
    return failed


def guard_folder(out: Path, name: str, revision: str) -> Path:
    """Where the journals of one revision of a guard are, under the output folder of a run."""
    return out / "scores" / f"{_file_name(name)}@{_file_name(revision)[:16]}"


def journal_path(folder: Path, eval_set: EvalSet) -> Path:
    """The journal of the source and target that a set reads; a set with rows of its own has one of its own."""
    own = eval_set.file is not None or eval_set.given is not None or bool(eval_set.style)
    source = _file_name(eval_set.name) if own else eval_set.source
    return folder / f"{source}.{eval_set.target}.jsonl"


def read_scored_set(out: Path, name: str, revision: str, chosen: SetRows) -> ScoredSet | None:
    """The set as an earlier run scored it, without the guard; ``None`` when the guard does not answer its question.

    Args:
        out: output folder of that run.
        name: of the guard.
        revision: of the guard.
        chosen: the rows that the run judged. One that is absent is one that the guard failed on: it is unscored.

    Raises:
        NotFoundError: the run has no scores of the guard on the source of these rows.
    """
    path = journal_path(guard_folder(out, name, revision), chosen.eval_set)
    if not path.is_file():
        raise NotFoundError(
            f"guard `{name}` has not judged `{chosen.eval_set.name}`",
            where=str(path),
            hint="Run `corral eval moderation` with this output folder first.",
        )
    with path.open("rb") as lines:
        found = {entry["id"]: entry for entry in map(json.loads, lines)}
    for row in chosen.rows:
        if row.id not in found:
            failed = Verdict.failed(row.target, name, revision, Status.ERROR, "the guard failed")
            found[row.id] = journal_row(row.id, row, failed)
    return _scored_set(chosen, found, name, revision)


def _scored_set(chosen: SetRows, found: Mapping[str, Any], guard: str, revision: str) -> ScoredSet | None:
    judged = [found[row.id] for row in chosen.rows]
    scored = scores_of(chosen.eval_set.head, judged)
    if scored is None:
        return None
    scores_N, rule = scored
    return ScoredSet(
        eval_set=chosen.eval_set,
        guard=guard,
        revision=revision,
        examples=chosen.rows,
        truth_N=as_binary([chosen.eval_set.truth(row) for row in chosen.rows]),
        scores_N=scores_N,
        latency_ms_N=np.array([row["latency_ms"] for row in judged], dtype=np.float64),
        score_rule=rule,
        rows_in_set=chosen.total,
        cost=_cost(judged),
    )


def _cost(judged: Sequence[Mapping[str, Any]]) -> CompositionCost | None:
    """What a composition asked of its parts over these rows; ``None`` for any other guard."""
    asked = [row["asked"] for row in judged if "asked" in row]
    if not asked:
        return None
    cost = CompositionCost()
    for each in asked:
        cost.add(Asked(*call) for call in each)
    return cost


def score_guard(
    guard: Guard,
    sets: Sequence[EvalSet],
    loader: RowLoader,
    out: Path,
    *,
    batch_size: int = 128,
    resume: bool = True,
) -> ScoredGuard:
    """Score a guard on sets; a set that is absent, empty or not answered is skipped with the reason.

    Args:
        guard: judges.
        sets: what to judge.
        loader: reads the rows.
        out: output folder of the run.
        batch_size: rows a call to the guard.
        resume: continue from what an earlier run under ``out`` judged.
    """
    scorer = GuardScorer(guard, guard_folder(out, guard.name, guard.revision), batch_size=batch_size, resume=resume)
    scored: dict[str, ScoredSet] = {}
    skipped: list[Skipped] = []
    for eval_set in sets:
        try:
            chosen = loader.load(eval_set)
        except NotFoundError as error:
            skipped.append(Skipped(set=eval_set.name, reason=error.message, hint=error.hint or ""))
            continue
        result = scorer.score(chosen) if chosen.rows else None
        if result is not None:
            scored[eval_set.name] = result
        else:
            unanswered = f"guard `{guard.name}` gives no {eval_set.head} score"
            reason = unanswered if chosen.rows else "no row meets its conditions"
            skipped.append(Skipped(set=eval_set.name, reason=reason))
    return ScoredGuard(guard.name, guard.revision, guard.taxonomy, scored, tuple(skipped))


def _composition(verdict: Verdict) -> dict[str, Any]:
    """What a guard made of guards asked for its answer, and whose the answer is."""
    if not isinstance(verdict, ComposedVerdict):
        return {}
    return {"decided_by": verdict.decided_by, "asked": asked_of(verdict)}


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name) or "_"
