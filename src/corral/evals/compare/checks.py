"""What keeps two scorecards apart: other data, other versions of a task, another judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from corral.core.errors import UserError
from corral.evals.scorecard.results import Scorecard, TaskEntry

Aspect = Literal["task version", "data", "judge"]


@dataclass(frozen=True, slots=True)
class Conflict:
    """One task that may not be compared.

    Attributes:
        task: its name.
        aspect: in what the scorecards differ.
        ours: value of the baseline.
        theirs: value of the other.
        letter: of the other.
    """

    task: str
    aspect: Aspect
    ours: str
    theirs: str
    letter: str

    def __str__(self) -> str:
        return f"`{self.task}`: {self.aspect} `{self.ours[:24]}` (A) against `{self.theirs[:24]}` ({self.letter})"


def conflicts(baseline: Scorecard, other: Scorecard, letter: str, tasks: Sequence[str] | None) -> list[Conflict]:
    """Every task of both that may not be compared; ``tasks`` limits it to some.

    Tasks of which another machine gives other figures (time, memory) are no reason to refuse the rest: see
    ``same_conditions``.
    """
    found: list[Conflict] = []
    for entry in baseline.tasks:
        theirs = other.entry(entry.task)
        if theirs is not None and _is_reproducible(entry) and (tasks is None or entry.task in tasks):
            found += _of_task(entry, theirs, letter)
    return found


def same_conditions(ours: TaskEntry, theirs: TaskEntry) -> bool:
    """Whether times and memory were measured on one kind of machine, on the same items, by the same version."""
    return _is_reproducible(ours) or not list(_of_task(ours, theirs, ""))


def require_comparable(found: Sequence[Conflict]) -> None:
    """Refuse when anything differs.

    Raises:
        UserError: names every task and what differs; the hint says what can be done.
    """
    if not found:
        return
    aspects = {conflict.aspect for conflict in found}
    equal = "Measure again with the same version, data and settings, or name the tasks that are equal with `--tasks`."
    rejudge = "`--rejudge` labels the cached answers of both with the same judge."
    raise UserError(
        "the scorecards may not be compared: " + "; ".join(map(str, found)),
        hint=rejudge if aspects == {"judge"} else equal,
    )


def _is_reproducible(entry: TaskEntry) -> bool:
    return not entry.measures or any(measure.reproducible for measure in entry.measures)


def _of_task(ours: TaskEntry, theirs: TaskEntry, letter: str) -> Iterator[Conflict]:
    aspects: tuple[tuple[Aspect, str, str], ...] = (
        ("task version", ours.version, theirs.version),
        ("data", ours.data_hash, theirs.data_hash),
        ("judge", ours.judge_revision, theirs.judge_revision),
    )
    for aspect, a, b in aspects:
        if a != b:
            yield Conflict(ours.task, aspect, a, b, letter)
