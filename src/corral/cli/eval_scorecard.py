"""``corral eval scorecard``: ability, safety, over-refusal and cost of a model, and the quality of guards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli.guard_settings import chosen_specs, names_in, parse_guards, settings_by_guard
from corral.cli.output import print_json, print_table, remark
from corral.core.errors import CorralError

if TYPE_CHECKING:
    from corral.evals.scorecard import Scorecard, SkippedTask, TaskEntry
    from corral.evals.tasks.task import EvalTask


def scorecard(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id, folder, GGUF file or embedded:NAME.")],
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the scorecard.", show_default=False)],
    guard: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Guard to measure, alone and in front of the model. Repeatable."),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="GUARD.KEY=VALUE", help="A guard's setting. Repeatable.")
    ] = None,
    tasks: Annotated[
        str, typer.Option(metavar="NAMES", help="`default`, or names separated by commas; see `eval tasks`.")
    ] = "default",
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many items a task; default: each task's own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="OpenAI-compatible server that runs MODEL.", show_default=False),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="What was answered; default: in CORRAL_CACHE.", show_default=False),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Keep what earlier runs answered, or ask everything again.")
    ] = True,
    show_content: Annotated[
        bool, typer.Option("--show-content", help="Show requests and replies, which may describe serious harm.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scorecard as JSON.")] = False,
) -> None:
    """Measure a model on a fixed set of tasks, and guards alone and in front of it.

    Writes scorecard.json, scorecard.md and scorecard.html, one file that needs nothing else, and samples.jsonl, what
    every figure is computed from. What was answered is kept: the same command again takes seconds, and one that was
    stopped continues. Two such folders are compared by `corral compare`.
    """
    from corral.evals.scorecard import TaskSettings, choose_tasks, measure_subject, open_subject
    from corral.guards.loading import load_guard

    specs = parse_guards(guard or [])  # a name that does not exist is told before a model is loaded
    specs = chosen_specs(specs, settings_by_guard(setting or [], names_in(specs)))
    settings = TaskSettings(limit=limit, seed=seed)
    chosen = choose_tasks([name.strip() for name in tasks.split(",") if name.strip()], settings)
    guards = list(map(load_guard, specs))
    with open_subject(model, guards, server=server) as subject:
        card = measure_subject(
            subject,
            chosen,
            settings=settings,
            specs={each.name: spec for each, spec in zip(guards, specs, strict=True)},
            out=out,
            cache=cache,
            reuse=resume,
            show_content=show_content,
            on_task=_remark_done,
        )
    if as_json:
        from corral.evals.scorecard.folder import scorecard_json

        print_json(scorecard_json(card))
    else:
        _print(card)
    remark(f"report: {out / 'scorecard.html'} (also .md and .json)")
    _require_complete(card)


def list_tasks(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the tasks of the scorecard."""
    from corral.evals.scorecard import TaskSettings, choose_tasks

    each = choose_tasks(["default"], TaskSettings())
    if as_json:
        measures = [[measure.model_dump(mode="json") for measure in task.measures] for task in each]
        print_json(
            [
                {"name": task.name, "version": task.version, "measures": found}
                for task, found in zip(each, measures, strict=True)
            ]
        )
    else:
        rows = [(task.name, task.version, _titles(task)) for task in each]
        print_table(("task", "version", "measures"), rows)


def _titles(task: EvalTask) -> str:
    headlines = [measure.title for measure in task.measures if measure.headline]
    more = len(task.measures) - len(headlines)
    shown = "; ".join(headlines) or "of each guard that is named"
    return f"{shown}; and {more} more" if more else shown


def _remark_done(ended: TaskEntry | SkippedTask) -> None:
    from corral.evals.scorecard import SkippedTask

    if isinstance(ended, SkippedTask):
        remark(f"{ended.task}: {'failed' if ended.failed else 'skipped'}: {ended.reason}")
    else:
        remark(f"{ended.task}: {ended.samples} samples in {ended.seconds:.1f} s")


def _print(card: Scorecard) -> None:
    from corral.evals.scorecard.markdown import tables

    for number, table in enumerate(tables(card)):
        if number:
            print()
        print_table(table.columns, table.rows, title=table.title)


def _require_complete(card: Scorecard) -> None:
    failed = [task for task in card.skipped if task.failed]
    if failed:
        raise CorralError(
            f"{len(failed)} of {len(failed) + len(card.tasks)} tasks failed; `{failed[0].task}`: {failed[0].reason}",
            hint=failed[0].hint or "The same command again continues where it stopped.",
        )
