"""``corral train METHOD``: shorthand of ``corral recipes run`` that checks the method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from corral.cli.recipes import Json, Overrides, PlanOnly, RunsFolder, StartAnew, run_or_plan
from corral.core.errors import NotFoundError, UserError, suggest

# Training methods, each with the systems whose recipes train with it.
METHODS: Final[dict[str, tuple[str, ...]]] = {
    "dpo": ("aligned_smollm2",),
    "guard": ("cultureguard", "default_guard", "duoguard", "llama_guard", "wildguard"),
    "mogu": ("mogu",),
    "sft": ("aligned_smollm2",),
}


def train(
    method: Annotated[str, typer.Argument(metavar="METHOD", help=f"One of: {', '.join(METHODS)}.")],
    config: Annotated[str, typer.Option(metavar="NAME", help="SYSTEM/PROFILE, or the path of a YAML file.")],
    *,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    new: StartAnew = False,
    plan: PlanOnly = False,
    as_json: Json = False,
) -> None:
    """Train with a method; the same command continues an interrupted run.

    For example: corral train guard --config default_guard/small
    """
    from corral.core.recipes import load_profile

    if method not in METHODS:
        raise NotFoundError(f"there is no training method `{method}`", hint=suggest(method, METHODS))
    recipe, _ = load_profile(config, overrides or [])
    if recipe.name not in METHODS[method]:
        raise UserError(
            f"`{config}` holds settings of `{recipe.name}`, which does not train with method `{method}`",
            where="--config",
            hint=f"Systems that do: {', '.join(METHODS[method])}.",
        )
    run_or_plan(config, overrides or [], runs=runs, new=new, plan=plan, as_json=as_json)
