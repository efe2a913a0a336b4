"""Reading what an engine wrote: one text, or sections under headings, cleaned of what models like to put around them.

What cannot be used raises ``Unusable``; nothing is guessed. Words that merely repeat the instruction are no answer, and
weak models give many of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from corral.data.examples import normalise_prompt
from corral.data.refusals import opens_with_refusal
from corral.models.engines.base import Generation
from corral.synth.rows import Unusable

MOST_WORDS: Final = 300
ECHO_WORDS: Final = 8

_NUMBER: Final = re.compile(r"\A(?:\d{1,2}[.)]|[-*•])\s+")
_QUOTES: Final = (('"', '"'), ("“", "”"), ("'", "'"), ("«", "»"), ("**", "**"))


def one_text(
    generation: Generation,
    *,
    instruction: str,
    label: str = "",
    most_words: int = MOST_WORDS,
    refusal_is_answer: bool = False,
) -> str:
    """The one text that was asked for: a leading label, number and enclosing quotes are taken off.

    Args:
        generation: the answer.
        instruction: our part of the prompt; a run of 8 words of it in the answer is an echo.
        label: a heading such as ``Request`` that may stand in front.
        most_words: longer answers did not do what was asked.
        refusal_is_answer: otherwise an answer that opens like a refusal is one.

    Raises:
        Unusable: ``cut_off``, ``unparseable`` (empty or too long), ``refused`` or ``echo``.
    """
    if generation.finish_reason == "length":
        raise Unusable("cut_off")
    text = _unwrapped(generation.text, label)
    return checked_text(text, instruction, most_words=most_words, refusal_is_answer=refusal_is_answer)


def sections(generation: Generation, headings: Sequence[str]) -> list[str]:
    """The texts under ``Heading:`` lines, which must all be there once and in order, with nothing before the first.

    Letter case, blanks and Markdown signs around a heading do not matter.

    Raises:
        Unusable: ``cut_off`` or ``unparseable``.
    """
    if generation.finish_reason == "length":
        raise Unusable("cut_off")
    alternatives = "|".join(map(re.escape, headings))
    parts = re.split(
        rf"^[ \t#*_]*({alternatives})[ \t*_]*:[ \t*_]*", generation.text.strip(), flags=re.IGNORECASE | re.MULTILINE
    )
    found = [heading.casefold() for heading in parts[1::2]]
    if parts[0].strip() or found != [heading.casefold() for heading in headings]:
        raise Unusable("unparseable", f"expected the sections {', '.join(headings)}")
    texts = [_unwrapped(part, "") for part in parts[2::2]]
    if not all(texts):
        raise Unusable("unparseable", "an empty section")
    return texts


def checked_text(text: str, instruction: str, *, most_words: int = MOST_WORDS, refusal_is_answer: bool = False) -> str:
    """The text itself, once nothing speaks against it; arguments and errors as ``one_text``."""
    words = len(text.split())
    if not words:
        raise Unusable("unparseable", "empty")
    if words > most_words:
        raise Unusable("unparseable", f"{words} words, {most_words} allowed")
    if not refusal_is_answer and opens_with_refusal(text):
        raise Unusable("refused")
    if _echoes(text, instruction):
        raise Unusable("echo", "repeats the instruction")
    return text


def _unwrapped(text: str, label: str) -> str:
    text = _NUMBER.sub("", text.strip())
    if label:
        text = re.sub(rf"\A[*_]*{re.escape(label)}[*_]*:[*_]*\s*", "", text, flags=re.IGNORECASE)
    for opening, closing in _QUOTES:
        inner = text[len(opening) : -len(closing)]
        if len(text) > len(opening) + len(closing) and text == f"{opening}{inner}{closing}" and closing not in inner:
            return inner.strip()
    return text


def _echoes(text: str, instruction: str) -> bool:
    written, asked = normalise_prompt(text).split(), f" {normalise_prompt(instruction)} "
    runs = (" ".join(written[i : i + ECHO_WORDS]) for i in range(len(written) - ECHO_WORDS + 1))
    return any(f" {run} " in asked for run in runs)
