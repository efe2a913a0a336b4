"""``corral compare``: scorecards against the first of them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from corral.cli.guard_settings import settings_by_guard
from corral.cli.output import print_json, print_table, remark
from corral.core.errors import UserError

if TYPE_CHECKING:
    from corral.evals.compare import Preference

_OUT: Final = Path("eval", "compare")


class JudgedBy(StrEnum):
    """How a judge is asked."""

    WORDS = "words"
    LIKELIHOOD = "likelihood"


def compare(
    scorecards: Annotated[
        list[Path], typer.Argument(metavar="A B ...", help="Folders of `corral eval scorecard`; A is the baseline.")
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the report.")] = _OUT,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Only these tasks, separated by commas; default: all that are shared."),
    ] = None,
    rejudge: Annotated[
        bool, typer.Option("--rejudge", help="Where judges differ, label the cached answers of all with today's.")
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="GUARD.KEY=VALUE", help="Setting of A's first guard, where --rejudge asks it. Repeatable."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model that says whose answers to everyday requests are better, in both orders.",
            show_default=False,
        ),
    ] = None,
    judge_server: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible server that runs it.", show_default=False)
    ] = None,
    judge_by: Annotated[
        JudgedBy | None,
        typer.Option(
            help="How the judge is asked: likelihood is for models too small to write a verdict. [default: words]",
            show_default=False,
        ),
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Rows with `prompt` to judge by; default: packaged ones.", show_default=False
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where answers are kept; default: in CORRAL_CACHE.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the intervals of differences.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare scorecards: paired differences with intervals, and ability against safety.

    Every difference is the other scorecard minus A on the samples that both have. Scorecards whose data, task versions
    or judges differ are refused. With --judge the models answer everyday requests too, and the judge compares each
    pair of answers in both orders: a win rate, as far as the judge agrees with itself.
    """
    _require("--judge", judge, {"--judge-server": judge_server, "--judge-by": judge_by, "--requests": requests})
    _require("--rejudge", rejudge, {"--set": setting})
    _require("--rejudge` or `--judge", rejudge or judge, {"--cache": cache})
    from corral.evals.compare import Judges, write_comparison
    from corral.evals.compare import compare as compare_scorecards
    from corral.evals.compare.markdown import all_caveats, tables
    from corral.guards.loading import GUARDS

    chosen = None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()]
    judges = Judges(guard_settings=settings_by_guard(setting, GUARDS.names()) if setting else {})
    found = compare_scorecards(scorecards, tasks=chosen, rejudged=rejudge, judges=judges, cache=cache, seed=seed)
    if judge is not None:
        by = judge_by or JudgedBy.WORDS
        judged = _judged(scorecards, judge, judge_server, by=by, requests=requests, cache=cache)
        found = found.model_copy(update={"preferences": judged})
    write_comparison(found, out)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        for number, table in enumerate(tables(found)):
            if number:
                print()
            print_table(table.columns, table.rows, title=table.title)
        print()
        for caveat in all_caveats(found):
            print(caveat)
    remark(f"report: {out / 'compare.html'} (also .md and .json)")


def _judged(
    scorecards: list[Path],
    judge: str,
    server: str | None,
    *,
    by: JudgedBy,
    requests: Path | None,
    cache: Path | None,
) -> tuple[Preference, ...]:
    from corral.evals.compare import preferences
    from corral.evals.scorecard import open_subject
    from corral.evals.tasks.win_rate.prompts import packaged_prompts, user_prompts

    prompts = packaged_prompts() if requests is None else user_prompts(requests)
    asked = open_subject(judge, server=server)
    return preferences(scorecards, asked, prompts=prompts, by=by.value, cache=cache)


def _require(option: str, given: object, others: Mapping[str, object]) -> None:
    """Refuse options that do nothing without another."""
    idle = [name for name, value in others.items() if value]
    if idle and not given:
        raise UserError(f"`{idle[0]}` does nothing here", where=idle[0], hint=f"It is for `{option}`.")
