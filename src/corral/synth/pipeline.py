"""Generation steps that survive interruption: rows in, and for each task a row or a reason out, in order.

A step first says which tasks the input rows give, without asking anyone; then tasks are answered in chunks and written
to a row journal (``core/journal``). An interrupted step continues at the chunk it was in and ends with the same bytes
as one that was never interrupted: what an engine samples depends on the seed of a chunk's call and a prompt's place in
it, and chunks begin at the same tasks every time.

What could not be used is quarantined in ``OUT.rejects.jsonl`` with a reason, never dropped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from corral.core.errors import ConfigError, DataError, EngineError
from corral.core.files import sha256_json
from corral.core.journal import Journal, rejects_path
from corral.core.progress import progress
from corral.data.readers import read_rows
from corral.synth.duplicates import Deduplicator
from corral.synth.rows import Outcome, Row, Task, Unusable, made_row

DEFAULT_CHUNK: Final = 32

Ending = Literal["complete", "row budget", "token budget"]


class Step(Protocol):
    """One step of a pipeline."""

    @property
    def name(self) -> str:
        """In file names and histories."""

    def settings(self) -> Mapping[str, Any]:
        """JSON values that the rows depend on; a file begun under others is not continued."""

    def tasks(self, row: Row) -> Iterable[Task]:
        """The rows to be made from a row; depends on nothing but the row and the settings."""

    def answer(self, tasks: Sequence[Task], *, chunk: int) -> list[Outcome]:
        """Answer the tasks of one chunk, in order.

        Raises:
            EngineError: the model could not answer; the step can be continued.
        """


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop early; raising a budget and running again continues.

    Attributes:
        rows: at most so many rows in the file.
        tokens: no new chunk once so many tokens were read and written; the last chunk may pass it.

    Raises:
        ConfigError: below 1.
    """

    rows: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        for name, limit in (("rows", self.rows), ("tokens", self.tokens)):
            if limit is not None and limit < 1:
                raise ConfigError(f"`{limit}` is below 1", where=f"budget.{name}")


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did, earlier sessions included.

    Attributes:
        step: its name.
        tasks: rows that were to be made.
        rows: rows made.
        quarantined: tasks without a row, by the code of the reason.
        tokens: read and written by the engine, for rows and rejects.
        ended: ``complete`` when every task has a row or a reason.
    """

    step: str
    tasks: int
    rows: int
    quarantined: Mapping[str, int] = field(default_factory=dict)
    tokens: int = 0
    ended: Ending = "complete"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "quarantined": dict(sorted(self.quarantined.items()))}


@dataclass(frozen=True, slots=True)
class Reject:
    """A task without a row.

    Attributes:
        reason: ``code: detail``.
        row: what the row would have been but for the answer's fields, and the ``answer`` in full.
    """

    reason: str
    row: Mapping[str, Any]

    @property
    def code(self) -> str:
        """The word before the colon."""
        return self.reason.partition(":")[0]


def run_step(
    step: Step,
    rows: Sequence[Row],
    out: Path,
    *,
    budget: Budget | None = None,
    chunk: int = DEFAULT_CHUNK,
    duplicates: Deduplicator | None = None,
    resume: bool = True,
) -> StepReport:
    """Make a step's rows, continuing what an earlier session left in ``out``.

    Args:
        step: what to do.
        rows: JSON objects with a unique text ``id``.
        out: file of new rows, in the order of ``rows``.
        budget: when to stop early.
        chunk: tasks answered together.
        duplicates: fresh; rows it does not admit are quarantined as ``duplicate``.
        resume: false starts over.

    Raises:
        DataError: two tasks of one id, or an input row that the step cannot use.
        EngineError: the model could not answer; running again continues.
        UserError: ``out`` was written from other rows or under other settings.
    """
    if chunk < 1:
        raise ConfigError(f"`{chunk}` is below 1", where="chunk")
    tasks = [task for row in rows for task in step.tasks(row)]
    _require_unique(tasks)
    fingerprint = {
        "step": step.name,
        "settings": dict(step.settings()),
        "inputs": sha256_json([sha256_json(row) for row in rows]),
        "chunk": chunk,
    }
    with Journal.open(out, key="id", fingerprint=fingerprint, resume=resume) as journal:
        session = _Session(step, journal, budget or Budget(), duplicates)
        ended = session.run(tasks, chunk)
        return StepReport(step.name, len(tasks), journal.rows, dict(session.quarantined), session.tokens, ended)


def read_step(path: Path) -> list[dict[str, Any]]:
    """The rows that a step wrote, in order.

    Raises:
        NotFoundError: no such file.
        DataError: a damaged row; names the line.
    """
    return [row.value for row in read_rows(path, format="jsonl", strict=True)]


def read_rejects(path: Path) -> list[Reject]:
    """What a step quarantined, in order; ``path`` is its file of rows.

    Raises:
        DataError: a damaged row; names the line.
    """
    file = rejects_path(path)
    if not file.exists():
        return []
    entries = (entry.value for entry in read_rows(file, format="jsonl", strict=True))
    return [Reject(entry["reason"], json.loads(entry["raw"])) for entry in entries]


class _Session:
    """One opening of a step's journal: what was spent so far, and the writing of outcomes."""

    def __init__(self, step: Step, journal: Journal, budget: Budget, duplicates: Deduplicator | None) -> None:
        self._step = step
        self._journal = journal
        self._budget = budget
        self._duplicates = duplicates
        self.tokens = 0
        self.quarantined: Counter[str] = Counter()
        self._recall()

    def run(self, tasks: Sequence[Task], chunk: int) -> Ending:
        """Answer what is left, chunk by chunk."""
        journal = self._journal
        begun = journal.position - journal.position % chunk if journal.position < len(tasks) else len(tasks)
        with progress(len(tasks) - journal.position, self._step.name) as bar:
            for start in range(begun, len(tasks), chunk):
                if self._rows_spent():
                    return "row budget"
                if journal.position == start and self._tokens_spent():
                    return "token budget"
                some = tasks[start : start + chunk]
                outcomes = self._step.answer(some, chunk=start // chunk)
                if len(outcomes) != len(some):
                    raise EngineError(f"step `{self._step.name}` gave {len(outcomes)} outcomes for {len(some)} tasks")
                done = journal.position - start  # an interruption may have left part of a chunk
                for task, outcome in zip(some[done:], outcomes[done:], strict=True):
                    if self._rows_spent():
                        return "row budget"
                    self._record(task, outcome)
                    bar.advance()
                journal.flush()
        return "complete"

    def _record(self, task: Task, outcome: Outcome) -> None:
        result = outcome.result
        if not isinstance(result, Unusable):
            row = made_row(self._step.name, task, result, outcome.origin)
            earlier = self._duplicates.admit(row) if self._duplicates else None
            if earlier is None:
                self._journal.append(row)
                self.tokens += outcome.origin.tokens
                return
            result = Unusable("duplicate", f"of `{earlier}`")
        row = made_row(self._step.name, task, {}, outcome.origin)
        raw = json.dumps({**row, "answer": outcome.answer}, ensure_ascii=False)
        self._journal.reject(self._step.name, None, result.reason, raw, key=task.id)
        self.tokens += outcome.origin.tokens
        self.quarantined[result.code] += 1

    def _recall(self) -> None:
        """Take up the sums and the memory of duplicates where an earlier session left them."""
        for row in self._journal.entries():
            self.tokens += row["provenance"][-1]["tokens"]
            if self._duplicates:
                self._duplicates.admit(row)
        for reject in self._journal.rejected():
            self.tokens += json.loads(reject["raw"])["provenance"][-1]["tokens"]
            self.quarantined[reject["reason"].partition(":")[0]] += 1

    def _rows_spent(self) -> bool:
        return self._budget.rows is not None and self._journal.rows >= self._budget.rows

    def _tokens_spent(self) -> bool:
        return self._budget.tokens is not None and self.tokens >= self._budget.tokens


def _require_unique(tasks: Sequence[Task]) -> None:
    counts = Counter(task.id for task in tasks)
    if repeated := next((name for name, count in counts.items() if count > 1), None):
        raise DataError(f"`{repeated}` would be made twice", hint="Give every input row an `id` of its own.")
