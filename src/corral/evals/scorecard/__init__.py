"""The scorecard: a fixed set of measures of a model, and of guards alone and in front of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from corral.evals.sample_cache import SampleCache, default_cache_folder
from corral.evals.scorecard.folder import read_scorecard, write_scorecard
from corral.evals.scorecard.report import write_reports
from corral.evals.scorecard.results import MeasureRow, Scorecard, SkippedTask, TaskEntry
from corral.evals.scorecard.run import ScorecardRun, run_scorecard
from corral.evals.scorecard.subject import load_subject, open_subject
from corral.evals.scorecard.task_set import SCORECARD_VERSION, TASKS, TaskSettings, choose_tasks
from corral.evals.tasks.task import EvalTask, Subject
from corral.guards.base import Guard
from corral.guards.composition.specs import GuardSpec
from corral.models.engines.base import Engine

__all__ = [
    "SCORECARD_VERSION",
    "TASKS",
    "MeasureRow",
    "Scorecard",
    "ScorecardRun",
    "SkippedTask",
    "TaskEntry",
    "TaskSettings",
    "choose_tasks",
    "load_subject",
    "measure_subject",
    "open_subject",
    "read_scorecard",
    "run_scorecard",
    "scorecard",
    "write_scorecard",
]


def scorecard(
    model: str | Path | Engine,
    guards: Sequence[Guard] = (),
    *,
    tasks: Sequence[str | EvalTask] = ("default",),
    limit: int | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    revision: str = "",
    cache: Path | str | None = None,
    show_content: bool = False,
) -> Scorecard:
    """Measure ability, safety, over-refusal and cost of a model, and the quality of guards.

    Args:
        model: hub id, folder, GGUF file or ``embedded:NAME``; or an engine.
        guards: measured by themselves and in front of the model, each on its own.
        tasks: names from ``corral eval tasks``, ``default`` for all of them, or tasks of your own.
        limit: at most so many items a task; each task's own default when ``None``.
        seed: of every draw.
        out: folder of ``scorecard.json``, ``.md``, ``.html`` and ``samples.jsonl``; nothing is written when ``None``.
        revision: of an engine: what its answers depend on. Without one they are not kept.
        cache: folder of what was answered; ``CORRAL_CACHE``/samples when ``None``.
        show_content: put prompts and replies, which may describe serious harm, into what is written.

    Raises:
        NotFoundError: nothing at ``model``, or an unknown task.
        UserError: two guards have the same name.
    """
    settings = TaskSettings(limit=limit, seed=seed)
    names = [task for task in tasks if isinstance(task, str)]
    chosen = (choose_tasks(names, settings) if names else []) + [task for task in tasks if not isinstance(task, str)]
    return measure_subject(
        load_subject(model, guards, revision=revision),
        chosen,
        settings=settings,
        out=None if out is None else Path(out),
        cache=None if cache is None else Path(cache),
        show_content=show_content,
    )


def measure_subject(
    subject: Subject,
    tasks: Sequence[EvalTask],
    *,
    settings: TaskSettings | None = None,
    specs: Mapping[str, GuardSpec] | None = None,
    out: Path | None = None,
    cache: Path | None = None,
    reuse: bool = True,
    show_content: bool = False,
    on_task: Callable[[TaskEntry | SkippedTask], None] | None = None,
) -> Scorecard:
    """Run tasks on a loaded subject and write the reports; arguments as for ``scorecard``.

    Args:
        specs: guard to what ``load_guard`` makes it of: with them `corral compare --rejudge` can load it again.
        reuse: take what earlier runs answered from the cache.
        on_task: called as soon as a task has ended.
    """
    chosen = settings or TaskSettings()
    with _cache(subject, cache, reuse=reuse) as opened:
        run = run_scorecard(
            subject,
            tasks,
            opened,
            settings={"limit": chosen.limit, "seed": chosen.seed, "tasks": [task.name for task in tasks]},
            specs=specs,
            show_content=show_content,
            on_task=on_task,
        )
    if out is not None:
        write_scorecard(run.card, run.samples_file, out)
        write_reports(run.card, run.samples, out, show_content=show_content)
    return run.card


@contextmanager
def _cache(subject: Subject, folder: Path | None, *, reuse: bool) -> Iterator[SampleCache]:
    """The cache; one that is forgotten afterwards for a subject that nothing tells apart from another."""
    if subject.revision:
        yield SampleCache(folder or default_cache_folder(), reuse=reuse)
        return
    with tempfile.TemporaryDirectory(prefix="corral-samples-") as temporary:
        yield SampleCache(Path(temporary))
