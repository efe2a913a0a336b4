"""``corral recipes``: list, show, copy and run the packaged recipes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli.output import print_fields, print_json, print_table, remark
from corral.core.errors import CorralError

if TYPE_CHECKING:
    from corral.core.runs import Run

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List, show, copy and run recipes.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeatable.")
]
RunsFolder = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="Folder of all runs.")]
StartAnew = Annotated[bool, typer.Option("--new", help="Start anew instead of continuing an unfinished run.")]
EvidenceFolder = Annotated[
    Path | None,
    typer.Option("--evidence", metavar="FOLDER", help="Put the run's evidence into FOLDER/SYSTEM.json when it ends."),
]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print what the run would do, and stop.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="SYSTEM/PROFILE, or the path of a YAML file of your own.")]


@app.command("ls")
def ls(
    evidence: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the evidence files.")] = Path("evidence"),
    as_json: Json = False,
) -> None:
    """List the systems, their profiles and their evidence."""
    from corral.core.recipes import list_recipes

    found = [
        (system, profiles, evidence_state(evidence / f"{system}.json")) for system, profiles in list_recipes().items()
    ]
    if as_json:
        print_json([{"name": name, "profiles": profiles, "evidence": state} for name, profiles, state in found])
    else:
        rows = ((name, ", ".join(profiles), _shown(state)) for name, profiles, state in found)
        print_table(("system", "profiles", "evidence"), rows)


def evidence_state(path: Path) -> dict[str, Any]:
    """What an evidence file shows.

    Returns:
        ``state`` (``absent``, ``damaged``, or ``present``), how many ``claims`` it lists, how many of them ``hold``,
        how many are shown on a ``toy`` only, and its ``date`` (null where there is none).
    """
    from corral.core.recipes import Evidence

    empty = {"claims": 0, "hold": 0, "toy": 0, "date": None}
    if not path.exists():
        return {"state": "absent", **empty}
    try:
        evidence = Evidence.read(path)
    except CorralError as error:
        remark(str(error))
        return {"state": "damaged", **empty}
    return {
        "state": "present",
        "claims": len(evidence.claims),
        "hold": sum(claim.holds for claim in evidence.claims),
        "toy": sum(claim.toy for claim in evidence.claims),
        "date": evidence.date.isoformat(),
    }


def _shown(state: dict[str, Any]) -> str:
    if state["state"] != "present":
        return str(state["state"])
    return f"{state['hold']} of {state['claims']} claims hold ({state['toy']} as a toy), {state['date']}"


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="SYSTEM[/PROFILE]", help="A system, or one of its profiles.")],
) -> None:
    """Print a recipe's settings as YAML, or a system's card."""
    from corral.core.recipes import list_recipes, read_profile

    card = resources.files("corral") / "recipes" / name / "card.md"
    print(card.read_text(encoding="utf-8") if name in list_recipes() else read_profile(name), end="")


@app.command("cp")
def cp(
    name: Annotated[str, typer.Argument(metavar="SYSTEM/PROFILE")],
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="Where to; an existing file is kept.")],
) -> None:
    """Copy a recipe's settings to a file, to be edited and run."""
    from corral.core.recipes import copy_profile

    copy_profile(name, file)
    remark(f"wrote {file}; run it with: corral recipes run {file}")


@app.command("run")
def run(
    name: Name,
    *,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    new: StartAnew = False,
    plan: PlanOnly = False,
    evidence: EvidenceFolder = None,
    as_json: Json = False,
) -> None:
    """Run a recipe, or continue its unfinished run.

    An unfinished run is continued when its settings are the same; the newest one, when there are several.
    """
    run_or_plan(name, overrides or [], runs=runs, new=new, plan=plan, evidence=evidence, as_json=as_json)


def run_or_plan(
    name: str,
    overrides: list[str],
    *,
    runs: Path,
    new: bool,
    plan: bool,
    as_json: bool,
    evidence: Path | None = None,
) -> None:
    """Run a recipe, publish its evidence if asked to, and print its run; or print its plan."""
    from corral.core.recipes import plan_recipe, publish_evidence, run_recipe

    if plan:
        steps = plan_recipe(name, overrides)
        print_json(steps) if as_json else print("\n".join(steps))
        return
    try:
        finished = run_recipe(name, overrides, root=runs, resume=not new)
    except KeyboardInterrupt:
        remark("interrupted: `corral runs ls` shows the run, `corral runs resume RUN` continues it")
        raise typer.Exit(130) from None
    if evidence is not None:
        written = publish_evidence(finished, evidence)
        remark(f"wrote {written}" if written else f"{finished.manifest.recipe} gives no evidence")
    print_run(finished, as_json=as_json)


def print_run(run: Run, *, as_json: bool) -> None:
    """Print where a run is and how it ended; as JSON with its whole manifest and report."""
    from corral.core.runs import REPORT, read_report

    report = read_report(run.path) if (run.path / REPORT).exists() else None
    manifest = run.manifest
    if as_json:
        print_json(
            {
                "path": str(run.path),
                "status": run.status,
                "manifest": manifest.model_dump(mode="json"),
                "report": report,
            }
        )
        return
    print_fields(
        [
            ("run", run.path),
            ("recipe", manifest.recipe),
            ("status", run.status),
            ("error", manifest.error),
            ("started", manifest.started_at),
            ("ended", manifest.ended_at),
            ("sessions", manifest.sessions),
            ("seed", manifest.seed),
            ("settings", f"{run.path / 'config.yaml'} ({manifest.config_hash})"),
            ("inputs", len(manifest.inputs)),
            ("outputs", len(manifest.outputs)),
            ("parents", ", ".join(parent.path for parent in manifest.parents) or None),
            ("report", None if report is None else run.path / REPORT),
        ]
    )
