"""Running a scorecard: each task after the other, from the cache where an earlier run was there before."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

from corral.core.errors import CorralError
from corral.core.manifest import describe_machine
from corral.core.progress import ProgressBar, progress
from corral.evals.sample_cache import SampleCache
from corral.evals.scorecard.folder import samples_bytes, samples_hash
from corral.evals.scorecard.results import GuardName, Scorecard, SkippedTask, TaskEntry
from corral.evals.scorecard.task_set import SCORECARD_VERSION
from corral.evals.tasks.task import EvalTask, SampleScore, Subject, TaskResult, TaskSkip
from corral.guards.base import Guard
from corral.guards.composition.specs import GuardSpec, spec_json


@dataclass(frozen=True)
class ScorecardRun:
    """A scorecard and what it rests on.

    Attributes:
        card: the figures.
        samples: task to the scores of its items, with texts.
        samples_file: ``samples.jsonl``, whose hash the card holds.
    """

    card: Scorecard
    samples: Mapping[str, tuple[SampleScore, ...]]
    samples_file: bytes


def run_scorecard(
    subject: Subject,
    tasks: Sequence[EvalTask],
    cache: SampleCache,
    *,
    settings: Mapping[str, Any] | None = None,
    specs: Mapping[str, GuardSpec] | None = None,
    show_content: bool = False,
    on_task: Callable[[TaskEntry | SkippedTask], None] | None = None,
) -> ScorecardRun:
    """Run tasks on a subject. One that fails is listed with its error, and the others are run.

    Args:
        subject: what is measured.
        tasks: from ``task_set.choose_tasks``.
        cache: of what was answered, which a rerun continues.
        settings: JSON values for the record.
        specs: guard to what ``load_guard`` makes it of, for the record.
        show_content: keep prompts and replies in ``samples_file``.
        on_task: called as soon as a task has ended.
    """
    entries: list[TaskEntry] = []
    skipped: list[SkippedTask] = []
    samples: dict[str, tuple[SampleScore, ...]] = {}
    for number, task in enumerate(tasks, start=1):
        ended, found = _run(task, subject, cache, f"{number}/{len(tasks)} {task.name}")
        if isinstance(ended, TaskEntry):
            entries.append(ended)
            samples[ended.task] = found
        else:
            skipped.append(ended)
        if on_task is not None:
            on_task(ended)
    samples_file = samples_bytes(samples, show_content=show_content)
    card = Scorecard(
        scorecard_version=SCORECARD_VERSION,
        corral_version=version("corral"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=_machine(),
        subject=subject.name,
        revision=subject.revision,
        guards=tuple(_named(guard, (specs or {}).get(guard.name)) for guard in subject.guards),
        settings=dict(settings or {}),
        tasks=tuple(entries),
        skipped=tuple(skipped),
        samples_sha256=samples_hash(samples_file),
    )
    return ScorecardRun(card, samples, samples_file)


class TaskBar:
    """The progress bar of one task; shown from the moment the task says how much there is to do."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._bar: ProgressBar | None = None

    def start(self, total: int) -> None:
        """See ``Progress``."""
        self.close()
        self._bar = progress(total, self._description)
        self._bar.__enter__()

    def advance(self, steps: int = 1) -> None:
        """See ``Progress``."""
        if self._bar is not None:
            self._bar.advance(steps)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _machine() -> str:
    """What times depend on, in words; two scorecards compare times only if it is equal."""
    machine = describe_machine()
    return f"{platform.system()} {machine.processor}, {machine.cpus} CPUs, {machine.accelerator or 'no accelerator'}"


def _named(guard: Guard, spec: GuardSpec | None) -> GuardName:
    return GuardName(name=guard.name, revision=guard.revision, spec=None if spec is None else spec_json(spec))


def _run(
    task: EvalTask, subject: Subject, cache: SampleCache, description: str
) -> tuple[TaskEntry | SkippedTask, tuple[SampleScore, ...]]:
    started = time.monotonic()
    try:
        with TaskBar(description) as bar:
            result = task.run(subject, cache, bar)
    except CorralError as error:
        where = f"{error.where}: " if error.where else ""
        return SkippedTask(task=task.name, reason=f"{where}{error.message}", hint=error.hint or "", failed=True), ()
    if isinstance(result, TaskSkip):
        return SkippedTask(task=result.task, reason=result.reason, hint=result.hint), ()
    return entry_of(result, time.monotonic() - started), result.samples


def entry_of(result: TaskResult, seconds: float) -> TaskEntry:
    """What the scorecard keeps of a result; its samples are kept beside."""
    return TaskEntry(
        task=result.task,
        version=result.version,
        data_hash=result.data_hash,
        judge_revision=result.judge_revision,
        measures=result.measures,
        figures=result.figures,
        samples=len(result.samples),
        seconds=round(seconds, 3),
        caveats=result.caveats,
        published=result.published,
    )
