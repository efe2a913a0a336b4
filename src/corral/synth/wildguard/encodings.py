"""Ways to write a text in other letters that a person still reads: what the encoding tactics do to a request.

All keep the text's length in tokens of the same order, so that prompts stay trainable; base64 and the like do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

_LEET: Final = str.maketrans("aeiostAEIOST", "431057431057")
_WORD: Final = re.compile(r"[^\W\d_]{5,}")
_HALF: Final = 2


def leetspeak(text: str) -> str:
    """Digits for six common letters."""
    return text.translate(_LEET)


def reversed_words(text: str) -> str:
    """The words from the last to the first."""
    return " ".join(reversed(text.split()))


def hyphenated(text: str) -> str:
    """A hyphen in the middle of each word of five letters or more."""
    return _WORD.sub(_split_in_half, text)


def alternating_case(text: str) -> str:
    """Every second character in capitals."""
    return "".join(sign.upper() if index % 2 else sign.lower() for index, sign in enumerate(text))


def _split_in_half(match: re.Match[str]) -> str:
    word = match.group()
    middle = len(word) // _HALF
    return f"{word[:middle]}-{word[middle:]}"


ENCODINGS: Final[Mapping[str, Callable[[str], str]]] = {
    "leetspeak": leetspeak,
    "reversed_words": reversed_words,
    "hyphenated": hyphenated,
    "alternating_case": alternating_case,
}
"""By the names that a tactic's ``encoding`` uses."""
