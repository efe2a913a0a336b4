"""Noise that changes how a text is written and leaves it readable: what a robust moderator should not mind.

Every perturbation is a pure function of text, strength and seed. ``strength`` in [0, 1] is the share of sites (letters,
words, gaps) that are changed, on average; 0 changes nothing. Sites are drawn once a text and seed, so a stronger
perturbation changes what a weaker one does and more. What undoes most of them is in ``guards/deobfuscate``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from corral.core.errors import ConfigError, suggest

Draw = Callable[[], float]
"""The next of an endless row of numbers in [0, 1)."""

ZERO_WIDTH: Final = "\u200b"
LEET: Final = MappingProxyType({"a": "4", "e": "3", "i": "1", "o": "0", "s": "5", "t": "7"})
HOMOGLYPHS: Final = MappingProxyType(
    dict(
        zip(
            "aceopxyisjABCEHIKMOPTXS",
            "\u0430\u0441\u0435\u043e\u0440\u0445\u0443\u0456\u0455\u0458"
            "\u0410\u0412\u0421\u0415\u041d\u0406\u041a\u041c\u041e\u0420\u0422\u0425\u0405",
            strict=True,
        )
    )
)
"""Latin letters to Cyrillic ones that most fonts draw alike."""

_EMOJI: Final = ("\U0001f600", "\U0001f44d", "\u2728", "\U0001f308", "\U0001f389", "\U0001f436")
_WORD: Final = re.compile(r"[^\W\d_]{4,}")
_GAP: Final = re.compile(r"(?<=[^\W\d_])(?=[^\W\d_])")
_WORD_END: Final = re.compile(r"(?<=\w)(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Perturbation:
    """A named way to disturb a text.

    Attributes:
        name: as recipes and reports write it.
        describe: what is changed, in a few words.
        edit: from text, strength and a source of numbers to the disturbed text.
    """

    name: str
    describe: str
    edit: Callable[[str, float, Draw], str]

    def apply(self, text: str, *, strength: float, seed: int = 0) -> str:
        """The disturbed text; the same arguments give the same text.

        Raises:
            ConfigError: the strength is outside [0, 1].
        """
        if not 0.0 <= strength <= 1.0:
            raise ConfigError(f"strength `{strength}` is outside [0, 1]", where=f"perturbations.{self.name}")
        return self.edit(text, strength, _draws(f"{self.name}/{seed}/{text}")) if strength else text


def perturbation(name: str) -> Perturbation:
    """The perturbation of that name.

    Raises:
        ConfigError: there is none; the hint lists near names.
    """
    if name not in PERTURBATIONS:
        raise ConfigError(f"no perturbation is named `{name}`", hint=suggest(name, PERTURBATIONS))
    return PERTURBATIONS[name]


def _draws(key: str) -> Draw:
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return generator.random


def _case(text: str, strength: float, draw: Draw) -> str:
    return _each_sign(text, strength, draw, lambda sign: sign.swapcase() if sign.isalpha() else None)


def _leet(text: str, strength: float, draw: Draw) -> str:
    return _each_sign(text, strength, draw, lambda sign: LEET.get(sign.lower()))


def _homoglyph(text: str, strength: float, draw: Draw) -> str:
    return _each_sign(text, strength, draw, HOMOGLYPHS.get)


def _zero_width(text: str, strength: float, draw: Draw) -> str:
    return _at_places(text, _GAP, strength, draw, lambda _: ZERO_WIDTH)


def _spacing(text: str, strength: float, draw: Draw) -> str:
    return _at_places(text, _GAP, strength, draw, lambda _: " ")


def _emoji(text: str, strength: float, draw: Draw) -> str:
    return _at_places(text, _WORD_END, strength, draw, lambda number: f" {_EMOJI[int(number * len(_EMOJI))]}")


def _typos(text: str, strength: float, draw: Draw) -> str:
    """Swap two neighbouring letters inside a word; the first and last stay, which is what keeps it readable."""

    def swapped(match: re.Match[str]) -> str:
        chance, place = draw(), draw()
        word = match.group()
        if chance >= strength:
            return word
        left = 1 + int(place * (len(word) - 3))
        return word[:left] + word[left + 1] + word[left] + word[left + 2 :]

    return _WORD.sub(swapped, text)


def _each_sign(text: str, strength: float, draw: Draw, change: Callable[[str], str | None]) -> str:
    """Change each sign that ``change`` gives something else for, with probability ``strength``."""

    def signs() -> Iterator[str]:
        for sign in text:
            other = change(sign)
            yield sign if other is None or draw() >= strength else other

    return "".join(signs())


def _at_places(text: str, places: re.Pattern[str], strength: float, draw: Draw, what: Callable[[float], str]) -> str:
    """Insert something at each place that a pattern of no width finds, with probability ``strength``."""

    def inserted(_: re.Match[str]) -> str:
        chance, number = draw(), draw()
        return what(number) if chance < strength else ""

    return places.sub(inserted, text)


PERTURBATIONS: Final[Mapping[str, Perturbation]] = {
    each.name: each
    for each in (
        Perturbation("case", "letters in the other case", _case),
        Perturbation("typos", "two neighbouring letters inside a word swapped", _typos),
        Perturbation("leet", "digits for six common letters", _leet),
        Perturbation("homoglyph", "Cyrillic letters for Latin ones that look alike", _homoglyph),
        Perturbation("zero_width", "zero-width spaces inside words", _zero_width),
        Perturbation("spacing", "blanks inside words", _spacing),
        Perturbation("emoji", "emoji between words", _emoji),
    )
}
"""Every perturbation by name."""
