"""The readings of a text: as written, and as someone would read it who sees through disguises and knows the codes.

A text that hides nothing has one reading, so that judging all readings costs nothing there. Codes are found as runs
inside the text (a guard is not told where the payload is): base64, hexadecimal, Morse and code points by their shape,
shift ciphers and reversal by whether a line then reads more like language. What was decoded is read again, since codes
can be nested. Strings that a program keeps apart are put together.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Final

from corral.guards.deobfuscate.codes import (
    ALPHABET_SIZE,
    from_base64,
    from_codepoints,
    from_hex,
    from_morse,
    mirrored,
    shifted,
)
from corral.guards.deobfuscate.language import common_count, common_words, likeness, word_count, words
from corral.guards.deobfuscate.noise import with_plain_letters, without_invisible, without_leet, without_stacked_marks
from corral.guards.deobfuscate.pieces import from_pieces

MAX_DEPTH: Final = 3
"""How many codes around each other are undone."""
_LEAST_PRINTABLE: Final = 0.9
_LEAST_WORDS: Final = 3
_LEAST_COMMON: Final = 2
_LEAST_GAIN: Final = 0.2
_IS_LANGUAGE: Final = 0.3
_SEGMENT: Final = re.compile(r"[^\n\"`]+")

_Finding = tuple[str, str]
"""What a code is called, and what it says."""
_Turn = Callable[[str], str]


def _reversed(text: str) -> str:
    return text[::-1]


_TURNS: Final[Mapping[str, _Turn]] = {
    **{f"shift by {shift}": partial(shifted, shift=-shift) for shift in range(1, ALPHABET_SIZE)},
    "mirrored alphabet": mirrored,
    "reversed": _reversed,
}
"""What reads a line that was turned, by the name of how it was."""
_UNDONE_BY: Final[Mapping[str, _Turn]] = {
    **_TURNS,
    **{f"shift by {shift}": partial(shifted, shift=shift) for shift in range(1, ALPHABET_SIZE)},
}

_CODES: Final[tuple[tuple[str, str, Callable[[str], str | None]], ...]] = (
    ("code points", r"(?<!\d)\d{1,7}(?:[ ,;]{1,2}\d{1,7}){5,}(?!\d)", from_codepoints),
    ("hexadecimal", r"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{2}){8,}(?![0-9A-Za-z])", from_hex),
    ("hexadecimal", r"(?<![0-9A-Za-z])[0-9A-Fa-f]{2}(?: [0-9A-Fa-f]{2}){7,}(?![0-9A-Za-z])", from_hex),
    ("hexadecimal", r"(?:\\x[0-9A-Fa-f]{2}){8,}", from_hex),
    ("base64", r"(?<![0-9A-Za-z+/_-])[0-9A-Za-z+/_-]{16,}={0,2}", from_base64),
    ("Morse", r"(?<!\S)[.-]{1,7}(?: (?:[.-]{1,7}|[^\s.-]))*(?: [.-]{1,7})(?!\S)", from_morse),
)
_RUNS: Final = tuple((name, re.compile(pattern), decode) for name, pattern, decode in _CODES)


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a text.

    Attributes:
        text: what it then says.
        how: what was undone, in order; empty for the text as written.
    """

    text: str
    how: tuple[str, ...] = ()


@dataclass(slots=True)
class _Decoding:
    """One pass over a text; notes what was found on the way."""

    how: list[str] = field(default_factory=list)
    payloads: list[str] = field(default_factory=list)

    def replace(self, pattern: re.Pattern[str], read: Callable[[str], _Finding | None], text: str) -> str:
        """The text with each match replaced by what it says, if it says anything."""

        def said(match: re.Match[str]) -> str:
            found = read(match[0])
            if found is None:
                return match[0]
            self.how.append(found[0])
            self.payloads.append(found[1])
            return found[1]

        return pattern.sub(said, text)


def readings(text: str) -> tuple[Reading, ...]:
    """Every reading that differs: as written, without disguises, decoded in place, and what was in code alone.

    The first is the text as written. None is blank unless the text is.
    """
    clean = _without_noise(text)
    found = [clean, *_decoded(clean), *_put_together(clean)]
    by_text = {text: Reading(text)}
    for each in map(_without_leet, found):
        if each.text.strip():
            by_text.setdefault(each.text, each)
    return tuple(by_text.values())


def _without_noise(text: str) -> Reading:
    how = []
    for name, remove in (
        ("invisible characters", without_invisible),
        ("stacked marks", without_stacked_marks),
        ("look-alike letters", with_plain_letters),
    ):
        changed = remove(text)
        if changed != text:
            how.append(name)
            text = changed
    return Reading(text, tuple(how))


def _without_leet(reading: Reading) -> Reading:
    """Comes last, since in base64 digits stand beside letters as well."""
    changed = without_leet(reading.text)
    return reading if changed == reading.text else Reading(changed, (*reading.how, "digits for letters"))


def _decoded(clean: Reading) -> Iterator[Reading]:
    """The text with its codes read, again and again until none is left, and what the last of them said alone."""
    text, how, payloads = clean.text, clean.how, [""]
    for _ in range(MAX_DEPTH):
        decoding = _Decoding()
        for name, pattern, decode in _RUNS:
            text = decoding.replace(pattern, lambda code, name=name, decode=decode: _said(name, decode, code), text)  # type: ignore[misc]
        if not decoding.payloads:  # a line that stood inside a code is read in the next round
            text = decoding.replace(_SEGMENT, _better_turned, text)
        if not decoding.payloads:
            break
        how, payloads = (*how, *dict.fromkeys(decoding.how)), decoding.payloads
    if how != clean.how:
        yield Reading(text, how)
        yield Reading("\n".join(payloads), (*how, "alone"))


def _put_together(clean: Reading) -> Iterator[Reading]:
    """What strings in code say together, alone."""
    for how, said in from_pieces(clean.text):
        yield Reading(said, (*clean.how, how, "alone"))


def _said(name: str, decode: Callable[[str], str | None], code: str) -> _Finding | None:
    said = decode(code)
    return (name, said) if said is not None and _is_text(said) else None


def _better_turned(segment: str) -> _Finding | None:
    """The shift, mirror or reversal under which a line reads clearly more like language."""
    if word_count(segment) < _LEAST_WORDS or likeness(segment) > _IS_LANGUAGE:
        return None
    common = Counter(turn for word in words(segment) for turn in _turns_to_common().get(word, ()))
    turned = [(turn, _TURNS[turn](segment)) for turn in _TURNS if common[turn] >= _LEAST_COMMON]
    if not turned:
        return None
    best = max(turned, key=lambda each: likeness(each[1]))
    better = likeness(best[1]) >= likeness(segment) + _LEAST_GAIN and common_count(best[1]) >= _LEAST_COMMON
    return best if better else None


@cache
def _turns_to_common() -> Mapping[str, tuple[str, ...]]:
    """Words to the turns that make common words of them, so that a line is turned only where that may help."""
    found: dict[str, tuple[str, ...]] = {}
    for word in common_words():
        for turn, undone_by in _UNDONE_BY.items():
            coded = undone_by(word)
            found[coded] = (*found.get(coded, ()), turn)
    return found


def _is_text(text: str) -> bool:
    """Whether what came out is something to read rather than bytes that happen to be valid."""
    seen = [character for character in text if not character.isspace()]
    readable = sum(unicodedata.category(character)[0] in "LMNPS" for character in seen)
    return bool(seen) and readable >= _LEAST_PRINTABLE * len(seen) and any(map(str.isalpha, seen))
