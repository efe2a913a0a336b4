"""``corral train METHOD``: on a file of rows, or as shorthand of ``corral recipes run`` that checks the method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from corral.cli.output import print_json, remark
from corral.cli.recipes import Json, Overrides, PlanOnly, RunsFolder, StartAnew, print_run, run_or_plan
from corral.core.errors import NotFoundError, UserError, suggest

# Training methods, each with the systems whose recipes train with it.
METHODS: Final[dict[str, tuple[str, ...]]] = {
    "derta": ("derta",),
    "door": ("derta",),
    "dpo": ("aligned_smollm2", "egida"),
    "guard": ("cultureguard", "default_guard", "duoguard", "llama_guard", "wildguard"),
    "mogu": ("mogu",),
    "sft": ("aligned_smollm2",),
}
FROM_FILE: Final = ("derta", "door", "dpo", "sft")


def train(
    method: Annotated[str, typer.Argument(metavar="METHOD", help=f"One of: {', '.join(METHODS)}.")],
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]",
            help="Rows with `prompt` and `completion`, or `chosen` and `rejected`; methods derta, door, dpo, sft.",
            show_default=False,
        ),
    ] = None,
    *,
    config: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="SYSTEM/PROFILE, or the path of a YAML file.", show_default=False),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="With DATA: the model to train.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="With DATA: where the trained model goes.", show_default=False),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="With DATA: set rows aside that cannot be used.")
    ] = False,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    new: StartAnew = False,
    plan: PlanOnly = False,
    as_json: Json = False,
) -> None:
    """Train with a method; the same command continues an interrupted run.

    For example: corral train guard --config default_guard/small, or
    corral train derta triples.jsonl --base embedded:smollm2-135m-instruct --out model --set arm=derta
    """
    if method not in METHODS:
        raise NotFoundError(f"there is no training method `{method}`", hint=suggest(method, METHODS))
    if data is not None:
        if config is not None:
            raise UserError("DATA and `--config` are two ways to say what is trained on", hint="Give one of them.")
        _train_on_file(
            method,
            data,
            base=base,
            out=out,
            overrides=overrides or [],
            keep_going=keep_going,
            runs=runs,
            new=new,
            plan=plan,
            as_json=as_json,
        )
        return
    if config is None or base is not None or out is not None or keep_going:
        raise UserError(
            "say what to train on",
            hint=f"A file with `--base` and `--out` (methods {', '.join(FROM_FILE)}), or `--config SYSTEM/PROFILE`.",
        )
    _train_by_recipe(method, config, overrides or [], runs=runs, new=new, plan=plan, as_json=as_json)


def _train_by_recipe(
    method: str, config: str, overrides: list[str], *, runs: Path, new: bool, plan: bool, as_json: bool
) -> None:
    from corral.core.recipes import load_profile

    recipe, _ = load_profile(config, overrides)
    if recipe.name not in METHODS[method]:
        raise UserError(
            f"`{config}` holds settings of `{recipe.name}`, which does not train with method `{method}`",
            where="--config",
            hint=f"Systems that do: {', '.join(METHODS[method])}.",
        )
    run_or_plan(config, overrides, runs=runs, new=new, plan=plan, as_json=as_json)


def _train_on_file(
    method: str,
    data: Path,
    *,
    base: str | None,
    out: Path | None,
    overrides: list[str],
    keep_going: bool,
    runs: Path,
    new: bool,
    plan: bool,
    as_json: bool,
) -> None:
    from corral.train.from_file import METHOD_NAMES, plan_training, train_from_file

    name = next((each for each in METHOD_NAMES if each == method), None)
    if name is None:
        raise UserError(f"method `{method}` does not train on a file", hint="Use `--config SYSTEM/PROFILE`.")
    if base is None or out is None:
        missing = "--base" if base is None else "--out"
        raise UserError("is needed to train on a file", where=missing, hint="--base MODEL --out FOLDER")
    planned = plan_training(name, data, base, overrides, keep_going=keep_going)
    if plan:
        print_json(planned.model_dump(mode="json"))
        return
    try:
        finished = train_from_file(planned, out, runs=runs, resume=not new)
    except KeyboardInterrupt:
        remark("interrupted: the same command goes on from the last checkpoint")
        raise typer.Exit(130) from None
    print_run(finished, as_json=as_json)
