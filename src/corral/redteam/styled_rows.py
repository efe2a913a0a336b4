"""Labelled prompts asked again in an attack style, with the labels that they had."""

from __future__ import annotations

from dataclasses import replace

from corral.data.examples import ModerationExample
from corral.redteam.styles import NotApplicable, Style, StyleContext, seeded


def styled_row(row: ModerationExample, style: Style, *, seed: int) -> ModerationExample | None:
    """The row in a style; ``None`` where the style gives no prompt (see ``NotApplicable``).

    Args:
        row: of a prompt that has no turn before it.
        style: how it is asked.
        seed: of the style's chances; each row has its own.
    """
    context = StyleContext(language=row.language or "en")
    attack = style.apply(row.text, rng=seeded(seed, 0, style.id, row.text), context=context)
    if isinstance(attack, NotApplicable):
        return None
    return replace(row, conversation=attack.shown, attack=True, id=f"{row.id}+{style.name}")
