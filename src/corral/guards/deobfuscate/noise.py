"""Removers of disguises that people read through: invisible characters, stacked marks, look-alikes, digits as letters.

They undo what can be undone of the noise in ``data/perturbations``, and more. Each is idempotent and leaves plain text
alone. What a remover took away may have been meant (a joiner between the parts of an emoji, a word of another script):
whoever uses one keeps the original beside the result.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Final

from corral.data import perturbations
from corral.guards.deobfuscate.language import common_count

_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\U000e0000-\U000e0fff]"
)

LOOKALIKES: Final[Mapping[str, str]] = {
    "а": "a", "е": "e", "о": "o", "р": "p", "с": "c", "у": "y", "х": "x", "і": "i", "ј": "j", "ѕ": "s", "ԁ": "d",
    "һ": "h", "ԛ": "q", "ԝ": "w", "ɡ": "g", "ո": "n", "ս": "u", "ν": "v", "ο": "o", "ρ": "p", "α": "a", "ι": "i",
    "А": "A", "В": "B", "Е": "E", "К": "K", "М": "M", "Н": "H", "О": "O", "Р": "P", "С": "C", "Т": "T", "Х": "X",
    "І": "I", "Ј": "J", "Ѕ": "S", "Α": "A", "Β": "B", "Ε": "E", "Ζ": "Z", "Η": "H", "Ι": "I", "Κ": "K", "Μ": "M",
    "Ν": "N", "Ο": "O", "Ρ": "P", "Τ": "T", "Υ": "Y", "Χ": "X",
}  # fmt: skip
"""Cyrillic, Greek and Armenian letters that look like Latin ones (a selection of Unicode's confusables, UTS 39)."""
_LATIN: Final = re.compile(r"[A-Za-z]")
_WORD: Final = re.compile(r"\w+")

LEET: Final[Mapping[str, str]] = {digit: letter for letter, digit in perturbations.LEET.items()} | {"@": "a", "$": "s"}
"""What digits and signs stand for in letters' places."""
_LEET_SIGNS: Final = frozenset("0123456789@$")
_LEET_WORD: Final = re.compile(rf"[A-Za-z{re.escape(''.join(LEET))}]+")
_LEAST_LEET_WORDS: Final = 2
_RUN: Final = re.compile(r"\S+")
_LONGEST_WORD: Final = 20
_MOST_MARKS: Final = 2


def without_invisible(text: str) -> str:
    """The text without characters that are not seen: zero-width ones, variation selectors, tags, soft hyphens."""
    return _INVISIBLE.sub("", text)


def without_stacked_marks(text: str) -> str:
    """Letters with at most two combining marks as they are; of a longer stack, none of them (zalgo)."""
    if not any(map(unicodedata.combining, set(text))):
        return text
    kept: list[str] = []
    stack: list[str] = []
    for character in text:
        if unicodedata.combining(character):
            stack.append(character)
            continue
        kept += stack if len(stack) <= _MOST_MARKS else []
        stack = []
        kept.append(character)
    return "".join([*kept, *(stack if len(stack) <= _MOST_MARKS else [])])


def with_plain_letters(text: str) -> str:
    """Look-alikes and styled forms of Latin letters as those letters.

    A word is changed when all its letters are Latin or look so and the text has Latin letters of its own: words of a
    text in another script stay.
    """
    folded = text.translate({ord(each): _unstyled(each) for each in set(text)})
    disguised = not LOOKALIKES.keys().isdisjoint(folded) and _LATIN.search(folded)
    return _WORD.sub(_latin_word, folded) if disguised else folded


def without_leet(text: str) -> str:
    """Letters for the digits and signs inside words, where at least two words mix them; names with a number stay.

    Runs too long for a word (base64, addresses) stay too.
    """
    if _LEET_SIGNS.isdisjoint(text):
        return text
    mixed = [word for run in _runs(text) for word in _LEET_WORD.findall(run) if _is_leet(word)]
    if len(mixed) < _LEAST_LEET_WORDS:
        return text
    return _RUN.sub(lambda run: _LEET_WORD.sub(_letters, run[0]) if len(run[0]) <= _LONGEST_WORD else run[0], text)


def _runs(text: str) -> list[str]:
    return [run for run in _RUN.findall(text) if len(run) <= _LONGEST_WORD]


def _unstyled(character: str) -> str:
    """The Latin letter or digit that a character is a styled form of (bold, circled, full width)."""
    if character.isascii():
        return character
    plain = unicodedata.normalize("NFKC", character)
    return plain if plain.isascii() and plain.isalnum() else character


def _latin_word(match: re.Match[str]) -> str:
    letters = [LOOKALIKES.get(character, character) for character in match[0]]
    plain = all(character.isascii() for character in letters)
    return "".join(letters) if plain else match[0]


def _is_leet(word: str) -> bool:
    """Whether digits or signs stand between letters, or a digit before two of them; ordinals (3rd) do not count."""
    return bool(re.search(r"[A-Za-z][0-9@$]+[A-Za-z]|^[0-9](?!(?:st|nd|rd|th)$)[A-Za-z]{2}", word))


def _letters(match: re.Match[str]) -> str:
    letters = "".join(LEET.get(character, character) for character in match[0])
    is_number = not _LATIN.search(match[0]) and not common_count(letters)
    return match[0] if is_number else letters
