"""``corral redteam``: attack a model and its guards with published styles, judge, and compare."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli.guard_settings import settings_by_guard
from corral.cli.output import print_json, print_table, remark
from corral.cli.redteam_pairs import cells, expand, mine
from corral.cli.redteam_run import JudgeModel, JudgeServer, run

if TYPE_CHECKING:
    from corral.redteam.agreement import Agreement, JudgedReplies
    from corral.redteam.correction import Correction
    from corral.redteam.results import Rate
    from corral.redteam.styles import Style

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Attack a model and its guards with published styles."
)
app.command("run")(run)
app.command("expand")(expand)
app.command("mine")(mine)
app.command("cells")(cells)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Asked(StrEnum):
    """What a file of labelled replies is read for."""

    SUCCESS = "success"
    REFUSAL = "refusal"


@app.command("styles")
def styles(as_json: Json = False) -> None:
    """List the styles and presets."""
    from corral.redteam.styles import PRESETS, STYLES, load_style

    each = [load_style(name) for name in STYLES.names()]
    presets = [PRESETS.get(name) for name in PRESETS]
    if as_json:
        print_json(
            {
                "styles": [
                    {
                        "name": style.name,
                        "id": style.id,
                        "family": style.family,
                        "mechanism": style.mechanism,
                        "needs": _needs(style),
                    }
                    for style in each
                ],
                "presets": [
                    {"name": preset.name, "styles": preset.styles, "unavailable": dict(preset.unavailable)}
                    for preset in presets
                ],
            }
        )
        return
    rows = ((style.name, style.family, style.mechanism, ", ".join(_needs(style))) for style in each)
    print_table(("style", "family", "mechanism", "needs"), rows)
    print()
    print_table(
        ("preset", "styles", "not available"),
        ((preset.name, ", ".join(preset.styles), ", ".join(preset.unavailable)) for preset in presets),
    )


@app.command("judge")
def judge(
    *,
    on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SET", help="Labelled set or file. Repeatable. [default: gptfuzz and the readings of do_not_answer]"
        ),
    ] = None,
    judges: Annotated[
        list[str] | None, typer.Option("--judge", metavar="NAME", help="Judge; as for `run`. [default: prefix-list]")
    ] = None,
    judge_model: JudgeModel = None,
    judge_server: JudgeServer = None,
    ensemble: Annotated[
        str | None, typer.Option(metavar="RULE", help="Add a vote: majority, any or all.", show_default=False)
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="GUARD.KEY=VALUE", help="Setting of a judging guard."),
    ] = None,
    question: Annotated[Asked, typer.Option(help="What a file is read for; public sets have their own.")] = (
        Asked.SUCCESS
    ),
    limit: Annotated[int | None, typer.Option(min=1, help="Replies a set, drawn at random; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw and of the intervals.")] = 0,
    correct: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Correct the rates of this run for the error of its judges, as measured here.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the judges' labels and the report.")] = Path(
        "redteam", "judges"
    ),
    as_json: Json = False,
) -> None:
    """Measure judges against labels that people gave: accuracy, kappa, sensitivity and specificity.

    With --correct, attack success of a run stands beside itself with its judge's error corrected for.

    do_not_answer is read three ways: its actions 1 (refutes) and 4 (does not know) left out, as refusals, and as
    answers. The same command again goes on where it stopped.
    """
    from corral.core.files import atomic_write_json
    from corral.redteam.agreement import agreement_of, draw_labelled, judge_labelled
    from corral.redteam.correction import correct_run, require_correctable
    from corral.redteam.labelled import LABELLED, labelled_set
    from corral.redteam.loading import guards_of, open_judges
    from corral.redteam.report import read_report

    run_report = None if correct is None else read_report(correct)
    sets = [labelled_set(name, question.value) for name in on or LABELLED]
    for labelled in sets:
        draw_labelled(labelled, limit=limit, seed=seed)  # one that cannot be read is told before a judge is asked
    found: list[Agreement] = []
    judged: list[JudgedReplies] = []
    names = judges or ["prefix-list"]
    settings = settings_by_guard(setting or [], guards_of(names))
    with open_judges(names, model=judge_model, server=judge_server, ensemble=ensemble, guard_settings=settings) as each:
        if run_report is not None:
            require_correctable(
                run_report, [(one.name, one.revision, labelled.question) for one in each for labelled in sets]
            )
        for one in each:
            for labelled in sets:
                judged.append(judge_labelled(one, labelled, limit=limit, seed=seed, folder=out))
                found += agreement_of(judged[-1], seed=seed)
                remark(f"{one.name}: {labelled.name} measured")
    report = [agreement.model_dump(mode="json") for agreement in found]
    atomic_write_json(out / "agreement.json", report)
    if run_report is None:
        if as_json:
            print_json(report)
        else:
            _print_agreement(found)
        remark(f"report: {out / 'agreement.json'}")
        return
    correction = correct_run(run_report, judged, seed=seed)
    atomic_write_json(out / "corrected.json", correction.model_dump(mode="json"))
    if as_json:
        print_json({"agreement": report, **correction.model_dump(mode="json")})
    else:
        _print_agreement([each for each in found if not each.by])
        _print_correction(correction)
    remark(f"report: {out / 'corrected.json'} and {out / 'agreement.json'}")


@app.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    second: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Folder of another; default: the same.", show_default=False)
    ] = None,
    *,
    systems: Annotated[
        list[str] | None,
        typer.Option("--system", metavar="NAME", help="System of the first run, then of the second. Give two."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two systems on the same goals, styles and tries, with paired intervals."""
    from corral.core.errors import UserError
    from corral.redteam.compare import compare_systems, system_of
    from corral.redteam.report import comparison_table, read_report

    names = systems or []
    if len(names) > 2 or (second is None and len(names) != 2):
        hint = "For example `--system MODEL --system 'MODEL + default'`."
        raise UserError("two systems are compared", where="--system", hint=hint)
    chosen: list[str | None] = [*names, None, None]
    before, after = read_report(first), read_report(second or first)
    found = compare_systems(system_of(before, chosen[0]), system_of(after, chosen[1]))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    table = comparison_table(found)
    print_table(table.columns, table.rows, title=table.title)


def _needs(style: Style) -> list[str]:
    known = {
        "raw access": style.needs.raw_access,
        "several turns": style.needs.multi_turn,
        "texts of yours": style.needs.user_data,
        "a model that writes prompts": style.needs.attacker,
        "likelihoods": style.needs.likelihoods,
        "gradients": style.needs.gradients,
    }
    return [name for name, needed in known.items() if needed]


def _print_agreement(found: list[Agreement]) -> None:
    columns = ("set", "question", "judge", "part", "n", "positive", "undecided", "accuracy", "kappa")
    rows = (
        (
            each.set,
            each.question,
            each.judge,
            f"{each.by} {each.value}".strip() or "all",
            each.n,
            each.positives,
            each.undecided,
            *(_shown(each.figures[name]) for name in ("accuracy", "kappa", "recall", "specificity")),
        )
        for each in found
    )
    print_table((*columns, "sensitivity", "specificity"), rows)


def _print_correction(correction: Correction) -> None:
    from corral.redteam.report import correction_table

    table = correction_table(correction)
    print()
    print_table(table.columns, table.rows, title=table.title)
    print()
    for caveat in correction.caveats:
        print(caveat)


def _shown(rate: Rate) -> str:
    if rate.value is None:
        return "-"
    return f"{rate.value:.3f} [{rate.ci95[0]:.3f}, {rate.ci95[1]:.3f}]" if rate.ci95 else f"{rate.value:.3f} [withheld]"
