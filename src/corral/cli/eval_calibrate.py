"""``corral eval calibrate``: fit bands, weights and thresholds of guards on a development split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from corral.cli.guard_settings import chosen_specs, names_in, parse_guards, settings_by_guard
from corral.cli.output import print_json, print_table, remark
from corral.core.errors import NotFoundError, UserError

if TYPE_CHECKING:
    from corral.data.examples import ModerationExample
    from corral.data.messages import Target
    from corral.guards.base import Guard
    from corral.guards.composition.specs import GuardSpec

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Fit bands of cascades, weights of ensembles and thresholds of presets on a development split.",
)

_AT_MOST: Final = 200


class RuleChoice(StrEnum):
    """How an ensemble combines."""

    MEAN = "mean"
    MAX = "max"
    LOGIT = "logit"


Guards = Annotated[
    list[str],
    typer.Option(
        "--guard",
        metavar="GUARD",
        help="Name or composition; the second of one kind as '{guard: GUARD, name: NAME, settings: {...}}'. "
        "Repeatable.",
    ),
]
Setting = Annotated[
    list[str] | None, typer.Option("--set", metavar="GUARD.KEY=VALUE", help="A guard's setting. Repeatable.")
]
Rows = Annotated[
    str,
    typer.Option(
        metavar="FILE|SYSTEM/PROFILE",
        help="Labelled rows of yours (`harmful` beside the conversation), or a recipe: its held-out groups.",
    ),
]
Split = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the development split; default: the file's or recipe's.")
]
Out = Annotated[Path, typer.Option(metavar="FILE", help="Where the fit is written.")]
Scores = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of scores; a rerun continues there.")]
AtMost = Annotated[int, typer.Option(min=1, help="Rows of each entry of a recipe's mixture.")]
Json = Annotated[bool, typer.Option("--json", help="Print the fit as JSON.")]
_SCORES: Final = Path("eval", "development")
_RECIPE: Final = "default_guard/small"


@app.command("band")
def band(
    *,
    guard: Guards,
    setting: Setting = None,
    rows: Rows = _RECIPE,
    split: Split = None,
    agreement: Annotated[
        float | None, typer.Option(help="Least share of rows decided as the costly guard would.", show_default=False)
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Largest share of rows that the costly guard sees.", show_default=False)
    ] = None,
    out: Out = Path("band.json"),
    scores: Scores = _SCORES,
    at_most: AtMost = _AT_MOST,
    as_json: Json = False,
) -> None:
    """Fit the band of a cascade; the first --guard is the cheap one, the second the costly one."""
    from corral.core.files import atomic_write_json
    from corral.guards.composition.band import fit_band
    from corral.guards.composition.ensemble import harm_score
    from corral.guards.composition.specs import Cascade

    specs = _specs(guard, setting, exactly=2)
    split_name, examples = _development(rows, split, at_most)
    guards = _loaded(specs)
    _, found = _answered(guards, examples, scores)
    by_cheap, by_costly = found.values()
    fitted = fit_band(
        [harm_score(said["p_harm"], said["flagged"]) for said in by_cheap],
        [bool(said["flagged"]) for said in by_costly],
        split=split_name,
        agreement=agreement if agreement is not None or share is not None else 0.98,
        share=share,
        guards={name: each.revision for name, each in guards.items()},
    )
    atomic_write_json(out, fitted.model_dump(mode="json"))
    if as_json:
        print_json(fitted.model_dump(mode="json"))
    else:
        interval = "" if fitted.agreement_ci95 is None else " [{:.3f}, {:.3f}]".format(*fitted.agreement_ci95)
        cheap, costly = guards
        print(f"band: {fitted.low:.4g} to {fitted.high:.4g} of the harm score of {cheap}")
        print(f"  {costly} sees {fitted.share or 0:.1%} of {fitted.n:,} rows")
        print(f"  decisions as {costly} alone: {fitted.agreement or 0:.3f}{interval}")
    _tell_use(out, Cascade(cascade=(specs[0], specs[1]), fit=str(out)))


@app.command("ensemble")
def ensemble(
    *,
    guard: Guards,
    setting: Setting = None,
    rule: Annotated[RuleChoice, typer.Option(help="How scores are combined.")] = RuleChoice.LOGIT,
    max_fpr: Annotated[
        float | None, typer.Option(help="Largest false-positive rate at 0.5; default: the best F1.", show_default=False)
    ] = None,
    max_fpr_response: Annotated[
        float | None, typer.Option(help="The same for responses; default: as for prompts.", show_default=False)
    ] = None,
    early: Annotated[
        float | None,
        typer.Option(
            help="Let the first guard decide alone where it is sure: least share of rows decided as all would.",
            min=0,
            max=1,
            show_default=False,
        ),
    ] = None,
    rows: Rows = _RECIPE,
    split: Split = None,
    out: Out = Path("ensemble.json"),
    scores: Scores = _SCORES,
    at_most: AtMost = _AT_MOST,
    as_json: Json = False,
) -> None:
    """Fit calibrations and weights of an ensemble."""
    import numpy as np

    from corral.core.files import atomic_write_json
    from corral.guards.composition.ensemble import harm_score, log_odds
    from corral.guards.composition.specs import Ensemble
    from corral.guards.composition.weights import MemberScores, fit_ensemble

    specs = _specs(guard, setting, exactly=None)
    split_name, examples = _development(rows, split, at_most)
    guards = _loaded(specs)
    kept, found = _answered(guards, examples, scores)
    fitted = fit_ensemble(
        MemberScores(
            targets=[row.target for row in kept],
            harmful=[bool(row.harmful) for row in kept],
            logits_NM=np.array(
                [
                    [log_odds(harm_score(said["p_harm"], said["flagged"])) for said in of_row]
                    for of_row in zip(*found.values(), strict=True)
                ]
            ),
        ),
        {name: each.revision for name, each in guards.items()},
        split=split_name,
        rule=rule.value,
        max_fpr=_of_targets(max_fpr, max_fpr_response),
        early_agreement=early,
    )
    atomic_write_json(out, fitted.model_dump(mode="json"))
    if as_json:
        print_json(fitted.model_dump(mode="json"))
    else:
        columns = ("target", "guard", "weight", "slope", "threshold (log-odds)", "n", "harmful")
        print_table(
            columns,
            [
                (
                    target,
                    name,
                    f"{member.weight:.2f}",
                    f"{member.calibration.slope:.2f}",
                    f"{member.calibration.threshold:.2f}",
                    member.calibration.n,
                    member.calibration.positives,
                )
                for target, each in fitted.targets.items()
                for name, member in each.members.items()
            ],
        )
        first, *others = guards
        for target, each in fitted.targets.items():
            if each.early is not None:
                band = each.early.band
                print(f"{target}: {first} alone below {band.low:.4g} and above {band.high:.4g} of its harm score")
                print(f"  {', '.join(others)} asked about {band.share or 0:.1%} of {band.n:,} rows")
    _tell_use(out, Ensemble(ensemble=tuple(specs), rule=rule.value, fit=str(out)))


@app.command("presets")
def presets(
    *,
    guard: Guards,
    setting: Setting = None,
    rows: Rows = _RECIPE,
    split: Split = None,
    out: Out = Path("presets.json"),
    scores: Scores = _SCORES,
    at_most: AtMost = _AT_MOST,
    as_json: Json = False,
) -> None:
    """Fit strict, balanced and permissive thresholds of a guard, by language where a language needs its own.

    The presets flag at most 10 %, 5 % and 1 % of the harmless rows.
    """
    from corral.data.languages import Py3LangId
    from corral.guards.composition.ensemble import harm_score
    from corral.guards.composition.presets import DevelopmentScores, fit_presets

    identifier = Py3LangId()
    specs = _specs(guard, setting, exactly=1)
    split_name, examples = _development(rows, split, at_most)
    ((name, loaded),) = _loaded(specs).items()
    kept, found = _answered({name: loaded}, examples, scores)
    fitted = fit_presets(
        DevelopmentScores(
            targets=[row.target for row in kept],
            harmful=[bool(row.harmful) for row in kept],
            p_harm=[harm_score(said["p_harm"], said["flagged"]) for said in found[name]],
            languages=identifier.identify([row.text for row in kept]),
        ),
        guard=loaded.name,
        revision=loaded.revision,
        identifier=identifier.name,
        split=split_name,
    )
    fitted.save(out)
    if as_json:
        print_json(fitted.model_dump(mode="json"))
    else:
        from corral.evals.preset_table import preset_rows

        print_table(*preset_rows(fitted))
    remark(
        f"written: {out}; use it as --preset strict --thresholds {out}, in a policy as preset: strict and "
        f"thresholds: {out}"
    )


def _specs(texts: list[str], setting: list[str] | None, *, exactly: int | None) -> list[GuardSpec]:
    """The guards with their settings; where several are needed, as the parts of a composition that they will be."""
    specs = parse_guards(texts, parts=exactly != 1)
    if exactly is not None and len(specs) != exactly:
        raise UserError(f"{len(specs)} guards were named, {exactly} are needed", where="--guard")
    if exactly is None and len(specs) < 2:
        raise UserError("an ensemble needs at least two guards", where="--guard")
    return chosen_specs(specs, settings_by_guard(setting or [], names_in(specs)))


def _loaded(specs: Sequence[GuardSpec]) -> dict[str, Guard]:
    """The guards by the names that they have in a composition."""
    from corral.guards.composition.building import build_guard
    from corral.guards.composition.specs import name_of

    return {name_of(spec): build_guard(spec) for spec in specs}


def _of_targets(prompts: float | None, responses: float | None) -> dict[Target, float]:
    """Largest false-positive rates; responses without one of their own have that of prompts."""
    rates: dict[Target, float | None] = {"prompt": prompts, "response": prompts if responses is None else responses}
    return {target: rate for target, rate in rates.items() if rate is not None}


def _tell_use(out: Path, composition: GuardSpec) -> None:
    from corral.guards.composition.specs import written

    remark(f"written: {out}; use it as --guard '{written(composition)}'")


def _development(rows: str, split: str | None, at_most: int) -> tuple[str, list[ModerationExample]]:
    """Name and rows of the development split; rows without a label are left out."""
    from corral.evals.development import labelled_rows

    if Path(rows).is_file():
        return split or Path(rows).name, labelled_rows(Path(rows))
    from corral.core.recipes import list_recipes, load_profile
    from corral.studies.default_guard.rows import calibration_rows
    from corral.studies.default_guard.settings import DefaultGuardConfig

    if rows.partition("/")[0] not in list_recipes():
        raise NotFoundError(
            f"`{rows}` is neither a file nor a recipe",
            where="--rows",
            hint="Give a file of labelled rows, or a recipe such as `default_guard/small`.",
        )
    recipe, config = load_profile(rows)
    if not isinstance(config, DefaultGuardConfig):
        raise UserError(f"recipe `{recipe.name}` has no mixture of training rows", where="--rows")
    return split or f"held-out groups of {rows}", calibration_rows(config, at_most=at_most)


def _answered(
    guards: dict[str, Guard], examples: list[ModerationExample], folder: Path
) -> tuple[list[ModerationExample], dict[str, list[Mapping[str, Any]]]]:
    """The rows on which every guard gave a verdict, and what each guard said of them."""
    from corral.evals.development import answered_rows, score_development

    remark(f"{len(examples):,} development rows")
    found = {name: score_development(guard, examples, folder) for name, guard in guards.items()}
    kept = answered_rows(found)
    return [examples[row] for row in kept], {name: [said[row] for row in kept] for name, said in found.items()}
