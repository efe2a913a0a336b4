"""What a formatter hands to training: prompts, the answers to learn, and which characters of them are in the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from corral.models.engines.base import Prompt


@dataclass(frozen=True, slots=True)
class PromptedRow:
    """A prompt and the answer to learn.

    Attributes:
        prompt: framed, as a guard asks it.
        answer: what to write after it.
        scored: ``(start, stop)`` characters of the answer that are in the loss, ascending; a span that reaches the end
            of the answer takes in the end of the turn.
        policy: rows with the same key may share the tokens that their prompts begin with.
    """

    prompt: Prompt
    answer: str
    scored: tuple[tuple[int, int], ...]
    policy: str


@dataclass(frozen=True, slots=True)
class FormattedRows:
    """Rows to train on, and an account of them.

    Attributes:
        rows: in the order of the examples that they are from.
        report: plain JSON: counts of what was read, left out and written.
    """

    rows: list[PromptedRow]
    report: dict[str, Any]
