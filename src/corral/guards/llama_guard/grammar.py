"""The language of verdicts: ``safe``, or ``unsafe`` and on the next line the violated codes.

::

    verdict = newlines ("safe" | "unsafe" "\\n" code {"," code}) newlines     no code twice; codes of the prompt only

Newlines around a verdict are allowed, since templates differ in what they emit themselves. All else is outside the
grammar: another case, blanks between codes, an unknown code, ``unsafe`` without a code, words before or after. A text
outside the grammar says nothing about safety, and never counts as ``safe``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

SAFE: Final = "safe"
UNSAFE: Final = "unsafe"
LABELS: Final = (SAFE, UNSAFE)


@dataclass(frozen=True, slots=True)
class ParsedVerdict:
    """What a text inside the grammar says; ``codes`` are those of the prompt, empty exactly when it says safe."""

    codes: tuple[str, ...] = ()

    @property
    def unsafe(self) -> bool:
        """Whether something is violated."""
        return bool(self.codes)


class VerdictSyntaxError(ValueError):
    """A text outside the grammar; the message says which rule it breaks and quotes nothing of it."""


def format_verdict(codes: Sequence[str]) -> str:
    """The text that says these codes are violated, or that none is."""
    return f"{UNSAFE}\n{','.join(codes)}" if codes else SAFE


def parse_verdict(text: str, codes: Collection[str], *, complete: bool = True) -> ParsedVerdict:
    """Read what a model wrote.

    Args:
        text: the model's words.
        codes: codes of the prompt's taxonomy.
        complete: false when the model was cut off; a verdict might then have gone on.

    Raises:
        VerdictSyntaxError: the text is not exactly a verdict.
    """
    if not complete:
        raise VerdictSyntaxError("the answer was cut off")
    label, newline, line = text.strip("\n").partition("\n")
    if label == SAFE and not newline:
        return ParsedVerdict()
    if label not in LABELS:
        raise VerdictSyntaxError("the first line is neither `safe` nor `unsafe`")
    if label == SAFE:
        raise VerdictSyntaxError("something follows `safe`")
    if not newline:
        raise VerdictSyntaxError("no codes follow `unsafe`")
    return ParsedVerdict(_codes(line, codes))


def _codes(line: str, known: Collection[str]) -> tuple[str, ...]:
    found = tuple(line.split(","))
    if any(code not in known for code in found):
        raise VerdictSyntaxError("the second line is not a list of the policy's codes")
    if len(set(found)) < len(found):
        raise VerdictSyntaxError("a code is repeated")
    return found
