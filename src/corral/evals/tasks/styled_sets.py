"""Sets asked in attack styles: ``jailbreakbench+base64`` is JailbreakBench with every prompt in that style.

Labels stay: a harmless request in a wrapper is harmless still. So a guard that fires at wrappers gains nothing on a set
with both classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from corral.core.errors import UserError
from corral.data.examples import ModerationExample
from corral.evals.tasks.eval_set import EvalSet
from corral.redteam.styled_rows import styled_row
from corral.redteam.styles import load_style

JOINT: Final = "+"


def styled_set(plain: EvalSet, style: str) -> EvalSet:
    """The set in a style; of published figures none belongs to it.

    Args:
        plain: a set of prompts.
        style: name of a style, or of several joined by ``+``.

    Raises:
        UserError: a set of responses, or a style that needs more than one prompt.
        NotFoundError: no style has that name.
    """
    found = load_style(style)
    name = f"{plain.name}{JOINT}{found.name}"
    if plain.target != "prompt" or plain.head != "harm":
        raise UserError(f"`{plain.name}` does not ask whether prompts are harmful", where=name)
    needs = found.needs
    if needs.multi_turn or needs.raw_access or needs.user_data or needs.search:
        raise UserError(
            f"style `{style}` is more than a prompt that can be written down",
            where=name,
            hint="`corral redteam styles` says what each style needs; take one that needs nothing.",
        )
    return replace(
        plain,
        name=name,
        style=found.name,
        rule=f"{plain.rule}; asked in the style {found.name}",
        published=(),
        slices=(),
        family="",
        pair="",
        headline=False,
    )


def styled_rows(rows: Iterable[ModerationExample], style: str, *, seed: int) -> Iterator[ModerationExample]:
    """The rows in a style; those that it does not fit, and those with turns before the prompt, are left out."""
    found = load_style(style)
    for row in rows:
        if len(row.conversation.messages) == 1:
            styled = styled_row(row, found, seed=seed)
            if styled is not None:
                yield styled


def plain_id(row: ModerationExample, style: str) -> str:
    """Id of the row that a row in a style is made of."""
    return row.id.removesuffix(f"{JOINT}{style}")
