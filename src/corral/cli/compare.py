"""``corral compare``: scorecards against the first of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from corral.cli.output import print_json, print_table, remark

_OUT: Final = Path("eval", "compare")


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
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where --rejudge finds answers; default: in CORRAL_CACHE."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare scorecards: paired differences with intervals, and ability against safety.

    Every difference is the other scorecard minus A on the samples that both have. Scorecards whose data, task versions
    or judges differ are refused.
    """
    from corral.evals.compare import compare as compare_scorecards
    from corral.evals.compare import write_comparison
    from corral.evals.compare.markdown import tables

    chosen = None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()]
    found = compare_scorecards(scorecards, tasks=chosen, rejudged=rejudge, cache=cache, seed=seed)
    write_comparison(found, out)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        for number, table in enumerate(tables(found)):
            if number:
                print()
            print_table(table.columns, table.rows, title=table.title)
        print()
        for caveat in found.caveats:
            print(caveat)
    remark(f"report: {out / 'compare.html'} (also .md and .json)")
