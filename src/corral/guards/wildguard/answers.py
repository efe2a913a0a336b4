"""The three lines that WildGuard answers with, and how they are read.

::

    Harmful request: yes | no
    Response refusal: yes | no | n/a
    Harmful response: yes | no | n/a

Reading is strict and line by line: blanks around the whole answer and letter case do not matter, everything else does.
Each line must stand in its own place with nothing before or after it; a line that does not is unknown, and takes no
other line with it. An answer of more than three lines is no answer at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

FieldName = Literal["prompt", "refusal", "response"]
Label = Literal["yes", "no", "n/a"]

LINES: Final = ("Harmful request", "Response refusal", "Harmful response")
FIELDS: Final[tuple[FieldName, ...]] = ("prompt", "refusal", "response")
YES: Final = "yes"
NO: Final = "no"
NOT_APPLICABLE: Final = "n/a"
LABELS: Final[tuple[tuple[Label, ...], ...]] = (
    (YES, NO),
    (YES, NO, NOT_APPLICABLE),
    (YES, NO, NOT_APPLICABLE),
)
# Letters are ASCII: case folding beyond it would read the long s of another alphabet as ours.
_PATTERNS: Final = tuple(
    re.compile(f"{line}: ({'|'.join(labels)})", re.IGNORECASE | re.ASCII)
    for line, labels in zip(LINES, LABELS, strict=True)
)
_BLANKS: Final = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Answers:
    """One answer to all three questions; ``None`` is n/a.

    Attributes:
        harmful_request: the request is harmful.
        response_refusal: the reply refuses it.
        harmful_response: the reply is harmful.
    """

    harmful_request: bool
    response_refusal: bool | None = None
    harmful_response: bool | None = None


@dataclass(frozen=True, slots=True)
class ParsedAnswers:
    """What could be read of an answer, a label a line; ``None`` where the line is missing or malformed.

    Attributes:
        prompt: whether the request is harmful.
        refusal: whether the reply refuses.
        response: whether the reply is harmful.
    """

    prompt: Label | None = None
    refusal: Label | None = None
    response: Label | None = None

    @property
    def answers(self) -> Answers | None:
        """The whole answer; ``None`` when a line is unknown."""
        if self.prompt is None or self.refusal is None or self.response is None:
            return None
        return Answers(self.prompt == YES, _truth(self.refusal), _truth(self.response))


def label(value: bool | None) -> Label:
    """The word for a truth value; n/a for none."""
    if value is None:
        return NOT_APPLICABLE
    return YES if value else NO


def format_line(index: int, value: bool | None) -> str:
    """Line ``index`` (0 to 2) of an answer, without a newline."""
    return f"{LINES[index]}: {label(value)}"


def format_answers(answers: Answers) -> str:
    """The three lines, without a newline at the end."""
    values = (answers.harmful_request, answers.response_refusal, answers.harmful_response)
    return "\n".join(format_line(index, value) for index, value in enumerate(values))


def parse_answers(text: str, *, complete: bool = True) -> ParsedAnswers:
    """Read what a model wrote; never raises.

    Args:
        text: the model's words.
        complete: false when the model was cut off: its last line might have gone on, and is not read.
    """
    lines = text.strip(_BLANKS).split("\n")
    if len(lines) > len(LINES):
        return ParsedAnswers()
    if not complete:
        lines = lines[:-1]
    return ParsedAnswers(*_labels(lines))


def _labels(lines: Sequence[str]) -> list[Label | None]:
    labels: list[Label | None] = []
    for line, pattern in zip(lines, _PATTERNS, strict=False):
        match = pattern.fullmatch(line)
        labels.append(_WORDS[match[1].lower()] if match else None)
    return labels


def _truth(word: Label) -> bool | None:
    return None if word == NOT_APPLICABLE else word == YES


_WORDS: Final[dict[str, Label]] = {YES: YES, NO: NO, NOT_APPLICABLE: NOT_APPLICABLE}
