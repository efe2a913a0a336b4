"""``corral runs``: list, show, relate, verify and resume run directories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from corral.cli.output import print_json, print_table, printable, remark
from corral.cli.recipes import Json, print_run
from corral.core.errors import NotFoundError, RunError

if TYPE_CHECKING:
    from corral.core.runs import Run

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List, show, relate, verify and resume runs.")

_ROOT: Final = Path("runs")
TRAINING: Final = "train/"
"""What the names of runs begin with that train on a file instead of a recipe."""
Root = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of all runs.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


@app.command("ls")
def ls(root: Root = _ROOT, as_json: Json = False) -> None:
    """List the runs below a folder, newest first."""
    rows = [
        {
            "path": str(run.path),
            "recipe": run.manifest.recipe,
            "status": run.status,
            "started_at": run.manifest.started_at.isoformat(),
            "sessions": run.manifest.sessions,
            "config_hash": run.manifest.config_hash,
        }
        for run in _runs_below(root)
    ]
    if as_json:
        print_json(rows)
    else:
        columns = ("path", "recipe", "status", "started_at", "sessions")
        print_table(columns, ([row[column] for column in columns] for row in rows))


@app.command("show")
def show(path: RunFolder, as_json: Json = False) -> None:
    """Show what a run was asked for and how it ended."""
    from corral.core.runs import Run

    print_run(Run.open(path), as_json=as_json)


@app.command("graph")
def graph(root: Root = _ROOT, as_json: Json = False) -> None:
    """Show which runs build on which: each run below the runs whose outputs it reads."""
    runs = {str(run.path.resolve()): run for run in reversed(_runs_below(root))}
    parents = {path: [parent.path for parent in run.manifest.parents] for path, run in runs.items()}
    if as_json:
        nodes = [{"path": path, "recipe": run.manifest.recipe, "status": run.status} for path, run in runs.items()]
        edges = [{"parent": parent, "child": child} for child, above in parents.items() for parent in above]
        print_json({"nodes": nodes, "edges": edges})
        return
    for line in tree_lines(parents):
        path = line.lstrip()
        run = runs.get(path)
        print(f"{printable(line)}  {f'{run.manifest.recipe}, {run.status}' if run else 'not below this folder'}")


def _runs_below(root: Path) -> list[Run]:
    """Newest first; the folder that runs go to by default need not be there before the first run."""
    from corral.core.runs import list_runs

    if root != _ROOT and not root.is_dir():
        hint = "Name the folder that holds the runs; `corral recipes run` writes to `runs` unless told otherwise."
        raise NotFoundError("there is no such folder", where=str(root), hint=hint)
    return list_runs(root)


def tree_lines(parents: Mapping[str, Iterable[str]]) -> list[str]:
    """Lines of a forest, children indented below their parents.

    Args:
        parents: of each node; a parent that is no key is a root of its own.

    A node with several parents stands below each of them; what is below it is drawn the first time only.
    """
    children: dict[str, list[str]] = {}
    for node, above in parents.items():
        for parent in above:
            children.setdefault(parent, []).append(node)
    outside = [parent for parent in children if parent not in parents]
    lines: list[str] = []
    drawn: set[str] = set()
    pending = [(node, 0) for node in [*outside, *(node for node, above in parents.items() if not list(above))][::-1]]
    while pending:
        node, depth = pending.pop()
        lines.append(f"{'  ' * depth}{node}")
        if node not in drawn:
            drawn.add(node)
            pending += [(child, depth + 1) for child in reversed(children.get(node, []))]
    return lines


@app.command("verify")
def verify(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")], as_json: Json = False
) -> None:
    """Check that runs finished and that no file of theirs changed since; exits with 1 when one fails."""
    from corral.core.runs import verify_run

    problems = {str(path): verify_run(path) for path in paths}
    if as_json:
        print_json([{"path": path, "problems": found} for path, found in problems.items()])
    else:
        for path, found in problems.items():
            print(f"{printable(path)}: {'ok' if not found else ''}".rstrip())
            for problem in found:
                print(f"  {printable(problem)}")
    if any(problems.values()):
        raise typer.Exit(1)


@app.command("resume")
def resume(path: RunFolder, as_json: Json = False) -> None:
    """Continue a run that failed or was interrupted, with its own settings."""
    from corral.core.runs import Run

    run = Run.open(path)
    if run.status == "finished":
        remark("the run is finished: nothing to do")
    else:
        try:
            _continue(run)
        except KeyboardInterrupt:
            remark("interrupted: the same command continues")
            raise typer.Exit(130) from None
    print_run(run, as_json=as_json)


def _continue(run: Run) -> None:
    from corral.core.config import config_hash, load_config
    from corral.core.recipes import RECIPES
    from corral.core.runs import CONFIG

    if run.manifest.recipe.startswith(TRAINING):
        raise RunError(
            "was started by `corral train` on a file",
            where=str(run.path),
            hint="Give the same `corral train` command again: it continues the run.",
        )
    recipe = RECIPES.get(run.manifest.recipe.partition("/")[0])
    config = load_config(recipe.config_class, run.path / CONFIG)
    if config_hash(config) != run.manifest.config_hash:
        raise RunError(
            "was changed since the run started",
            where=str(run.path / CONFIG),
            hint=f"Start a new run with these settings: corral recipes run {run.manifest.recipe} --set ...",
        )
    with run:
        recipe.run(config, run)
