"""Whether a text reads like language: by function words, which every language is full of."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final

_WORD: Final = re.compile(r"(?<!\w)[^\W\d_]{2,}(?!\w)")


def word_count(text: str) -> int:
    """Words of two letters or more; a letter alone, or one beside a digit, is as often part of a code."""
    return len(_WORD.findall(text))


def common_count(text: str) -> int:
    """How many of the words are common ones."""
    return sum(word in common_words() for word in words(text))


def words(text: str) -> list[str]:
    """The words as they are looked up."""
    return _WORD.findall(text.casefold())


def likeness(text: str) -> float:
    """Share of the words that are common ones; of language it is a third to a half, of letters at random little."""
    return common_count(text) / max(word_count(text), 1)


@cache
def common_words() -> frozenset[str]:
    """Function words and what requests begin with, in English and, fewer, in six other languages."""
    return frozenset((files(__package__) / "common_words.txt").read_text(encoding="utf-8").split())
