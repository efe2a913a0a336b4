"""``corral eval``: measure models on the scorecard and guards on labelled sets, and look at their mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from corral.cli.eval_calibrate import app as calibrate
from corral.cli.eval_moderator import moderator
from corral.cli.eval_scorecard import list_tasks, scorecard
from corral.cli.guard_settings import chosen_specs, names_in, parse_guards, settings_by_guard
from corral.cli.output import print_json, print_table, remark
from corral.core.errors import GuardError, NotFoundError, UserError

if TYPE_CHECKING:
    from corral.evals.report_tables import Table
    from corral.evals.results import GuardResult, ModerationReport
    from corral.evals.tasks.eval_set import EvalSet
    from corral.guards.base import Guard
    from corral.studies.default_guard.settings import DefaultGuardConfig

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Measure models and guards, beside published figures."
)
app.command("scorecard")(scorecard)
app.command("tasks")(list_tasks)
app.command("moderator")(moderator)
app.add_typer(calibrate, name="calibrate")


class Baseline(StrEnum):
    """What a guard is compared with."""

    BOW = "bow"


_AT_MOST_HELD_OUT: Final = 200  # rows an entry of the mixture: enough together, and no entry outweighs the rest
_OUT: Final = Path("eval", "moderation")
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of scores and reports.")]
Outs = Annotated[
    list[Path] | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="Folder of scores and reports; several are read as one report. Repeatable. [default: eval/moderation]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@app.command("moderation")
def moderation(
    *,
    guard: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GUARD",
            help="Guard to measure: a name, or a composition such as '{cascade: [default, wildguard], band: [0.2, "
            "0.8]}'. Repeatable. [default: default]",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="GUARD.KEY=VALUE", help="A guard's setting. Repeatable.")
    ] = None,
    sets: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="`headline`, `all`, or names separated by commas (see `eval sets`); `NAME+STYLE` asks a set of "
            "prompts in an attack style.",
        ),
    ] = "headline",
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="Public column of published tables, read from your copy of the set. Repeatable."
        ),
    ] = None,
    baseline: Annotated[
        Baseline | None,
        typer.Option(help="Compare with bags of words fitted to the guard's training rows.", show_default=False),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(
            metavar="SYSTEM/PROFILE",
            help="Recipe of which harmless prompts are measured too, those that its training held out.",
            show_default=False,
        ),
    ] = None,
    baseline_recipe: Annotated[
        str, typer.Option(metavar="SYSTEM/PROFILE", help="Recipe whose training rows the baseline is fitted to.")
    ] = "default_guard/small",
    out: Out = _OUT,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Rows a set, whole prompts drawn at random; default: all.")
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=ROWS", help="The same limit of one set, in place of --limit. Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of that draw and of the intervals.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a call to the guard.")] = 128,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Keep what earlier runs judged, or judge everything again.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Measure guards on labelled sets, with intervals, the F1 of flagging everything, and published figures.

    The sets are read from the folder that CORRAL_DATA names, else ../shared/data; one that is not there is skipped.
    Sets that no such folder may hold are measured from your own copy: --column saferlhf=test.jsonl.xz --sets "".
    The same command again continues where it stopped; with other sets or another limit it judges only what is new.
    """
    from corral.evals.report import terminal_tables, write_report
    from corral.evals.tasks.column_files import parse_column
    from corral.evals.tasks.moderation import ModerationSettings, choose_sets, run_moderation
    from corral.guards.loading import load_guard

    specs = parse_guards(guard or ["default"])
    guards = chosen_specs(specs, settings_by_guard(setting or [], names_in(specs)))
    wanted = [name.strip() for name in sets.split(",") if name.strip()]
    chosen = [*(choose_sets(wanted) if wanted or not (column or held_out) else []), *map(parse_column, column or [])]
    if held_out is not None:
        chosen.append(_held_out(held_out))
    samples = _samples(sample or [], [each.name for each in chosen])
    fitted, rows = _bag_of_words(baseline_recipe) if baseline is not None else (None, {})
    report = run_moderation(
        map(load_guard, guards),  # one after the other, so that one at a time is in memory
        chosen,
        out,
        ModerationSettings(limit=limit, samples=samples, seed=seed, batch_size=batch_size, resume=resume),
        baseline=fitted,
        baseline_rows=rows,
        on_guard=_remark_done,
    )
    if not any(result.sets for result in report.guards):
        first = report.guards[0].skipped[0]
        raise NotFoundError(f"no set could be measured; `{first.set}`: {first.reason}", hint=first.hint or None)
    write_report(report, out)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        _print(terminal_tables(report))
    remark(f"report: {out / 'report.md'} (also .json and .csv)")
    _require_scores(report)


@app.command("errors")
def errors(
    *,
    out: Out = _OUT,
    guard: Annotated[
        str | None, typer.Option(metavar="NAME", help="Guard, where several were measured.", show_default=False)
    ] = None,
    sets: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Names separated by commas; default: all that were measured.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Worst mistakes to list of each kind and set.")] = 10,
    show_content: Annotated[
        bool, typer.Option("--show-content", help="Show the texts, which may describe serious harm.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List a guard's worst mistakes, and count mistakes by category, length and language.

    Reads what `corral eval moderation` with the same --out left; no guard is loaded.
    """
    from corral.evals.error_analysis import analyse
    from corral.evals.error_report import error_tables, write_errors

    chosen = None if sets is None else [name.strip() for name in sets.split(",") if name.strip()]
    report = analyse(out, guard=guard, sets=chosen, top=top, show_content=show_content)
    write_errors(report, out)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        _print(error_tables(report))
    remark(f"report: {out / 'errors.md'} (also .json)")


@app.command("card")
def card(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="Run directory that made the guard; none for a composition."),
    ] = None,
    *,
    notes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False, help="Markdown that it begins with; else the recipe's card."
        ),
    ] = None,
    out: Outs = None,
) -> None:
    """Print the model card of a guard: its data and settings, and its scores.

    Reads the run and what `corral eval moderation` with the same --out left, which must be of the run's weights.
    Without a run the card has the notes and the scores.
    """
    from importlib import resources

    from corral.core.files import read_json
    from corral.core.runs import Run, read_report
    from corral.evals.guard_card import guard_card, scores_card

    if run is None:
        if notes is None:
            raise UserError("no run and no notes", where="--notes", hint="Name the run that made the guard, or notes.")
        print(scores_card(notes.read_text(encoding="utf-8"), _read_as_one(out)), end="")
        return
    made = Run.open(run)
    system = made.manifest.recipe.partition("/")[0]
    own = resources.files("corral") / "recipes" / system / "card.md"
    said = (own if notes is None else notes).read_text(encoding="utf-8")
    account, revision = read_json(made.artefacts / "mixture.json"), str(read_report(run)["revision"])
    print(guard_card(said, account, made.config, revision, _read_as_one(out)), end="")


@app.command("claims")
def claims(
    *,
    out: Outs = None,
    evidence: Annotated[Path, typer.Option(metavar="FOLDER", help="Where default_guard.json is written.")] = Path(
        "evidence"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the evidence as JSON.")] = False,
) -> None:
    """Hold what is required of the default guard against its measured figures, and write its evidence.

    Reads what `corral eval moderation` with the same --out left; no guard is loaded.
    """
    from corral.studies.default_guard.claims import evidence_of

    found = evidence_of(_read_as_one(out))
    path = found.write(evidence)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        rows = [
            (each.claim, "holds" if each.holds else "does not hold", _interval_cell(each.ci95), each.n, each.expected)
            for each in found.claims
        ]
        print_table(("claim", "", "95 % interval", "n", "required"), rows)
    remark(f"written: {path}")


@app.command("sets")
def list_sets(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the sets of the moderation task."""
    from corral.evals.tasks.moderation_sets import SETS, in_order

    each = [SETS.get(name) for name in in_order()]
    if as_json:
        keys = ("name", "source", "target", "head", "kind", "rule", "headline")
        print_json([{key: getattr(one, key) for key in keys} for one in each])
    else:
        rows = ((one.name, one.head, one.target, one.kind, one.rule, "yes" if one.headline else "") for one in each)
        print_table(("set", "question", "of the", "kind", "positive", "headline"), rows)


def _held_out(profile: str) -> EvalSet:
    """The harmless prompts that a recipe's training held out, as a set."""
    from corral.evals.tasks.moderation_sets import held_out_set
    from corral.studies.default_guard.rows import held_out_benign

    config = _mixture_of(profile, where="--held-out")
    remark(f"drawing the harmless prompts that {profile} holds out")
    return held_out_set(profile, held_out_benign(config, at_most=_AT_MOST_HELD_OUT))


def _mixture_of(profile: str, *, where: str) -> DefaultGuardConfig:
    """Settings of a recipe that has a mixture of training rows."""
    from corral.core.recipes import load_profile
    from corral.studies.default_guard.settings import DefaultGuardConfig

    recipe, config = load_profile(profile)
    if not isinstance(config, DefaultGuardConfig):
        raise UserError(f"recipe `{recipe.name}` has no mixture of training rows", where=where)
    return config


def _samples(texts: Iterable[str], chosen: Sequence[str]) -> dict[str, int]:
    """How many rows of which set are measured at the most.

    Raises:
        UserError: another form than ``NAME=ROWS``, or of a set that is not measured.
    """
    found = {}
    for text in texts:
        name, _, rows = (part.strip() for part in text.partition("="))
        if not (rows.isascii() and rows.isdecimal() and int(rows)):
            raise UserError(f"`{text}` is not NAME=ROWS", where="--sample", hint="For example `benign_mgsm=500`.")
        if name not in chosen:
            raise UserError(f"`{name}` is not measured", where="--sample", hint=f"Measured: {', '.join(chosen)}.")
        found[name] = int(rows)
    return found


def _bag_of_words(profile: str) -> tuple[Guard, dict[str, int]]:
    """The baseline fitted to the training rows of a recipe and calibrated on its held-out rows, and rows by source."""
    from corral.data.splits import split_by_group
    from corral.evals.baselines import train_bag_of_words
    from corral.studies.default_guard.calibration import DEVELOPMENT_SPLIT
    from corral.studies.default_guard.rows import draw

    config = _mixture_of(profile, where="--baseline-recipe")
    remark(f"fitting the baseline to the training rows of {profile}")
    drawn = [row for stage in range(len(config.further) + 1) for row in draw(config.up_to(stage)).rows]
    kept, held = split_by_group(drawn, held_out=config.held_out, seed=config.seed)
    fitted = train_bag_of_words(kept, held, max_fpr=config.max_fpr, split=DEVELOPMENT_SPLIT, seed=config.seed)
    return fitted, dict(Counter(row.source for row in kept))


def _read_as_one(folders: list[Path] | None) -> ModerationReport:
    """The reports in these folders as one."""
    from corral.evals.merged_reports import merged
    from corral.evals.report import read_report

    return merged([read_report(folder) for folder in folders or [_OUT]])


def _interval_cell(ci95: tuple[float, float] | None) -> str:
    return "-" if ci95 is None else f"{ci95[0]:.3f} to {ci95[1]:.3f}"


def _remark_done(result: GuardResult) -> None:
    skipped = f", {len(result.skipped)} skipped" if result.skipped else ""
    remark(f"{result.name}: {len(result.sets)} sets measured{skipped}")


def _require_scores(report: ModerationReport) -> None:
    """Fail when a guard gave no score on any row of a set: the report then says nothing of the guard."""
    for guard in report.guards:
        silent = [each for each in guard.sets if each.unscored == each.n]
        if silent:
            raise GuardError(
                f"guard `{guard.name}` gave no score on any of the {silent[0].n:,} rows of `{silent[0].name}`",
                hint="The same command again asks for the rows that the guard failed on.",
            )


def _print(tables: Iterable[Table]) -> None:
    for number, table in enumerate(tables):
        if number:
            print()
        print_table(table.columns, table.rows, title=table.title)
