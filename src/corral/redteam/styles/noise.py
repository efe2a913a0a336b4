"""Character noise: the request stays readable for people, its tokens change.

``rate`` is the share of the characters that could be changed which are; which ones is drawn from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final

from corral.core.errors import ConfigError
from corral.guards.deobfuscate.noise import LEET, LOOKALIKES, ZERO_WIDTH
from corral.redteam.styles.base import RuleStyle, Style
from corral.redteam.styles.prompt import Draft, NotApplicable, StyleContext
from corral.redteam.styles.templates import StyleFactory

_LEET_OF: Final = {letter: sign for sign, letter in reversed(tuple(LEET.items()))}
_LOOKALIKES_OF: Final[dict[str, list[str]]] = {}
for _sign, _letter in LOOKALIKES.items():
    _LOOKALIKES_OF.setdefault(_letter, []).append(_sign)
_MARKS: Final = tuple(map(chr, range(0x0300, 0x0316)))
_MOST_MARKS: Final = 4
_LEAST_MARKS: Final = 3
_VOWELS: Final = frozenset("aeiouAEIOU")

Change = Callable[[str, random.Random], str | None]
"""From a character to what stands in its place; ``None`` leaves it."""


def noise(name: str, mechanism: str, change: Change, rate: float, *, usual: float) -> Style:
    """A style that changes characters one by one.

    Args:
        name: of the style.
        mechanism: what it does.
        change: of a character.
        rate: share of the characters that could be changed which are.
        usual: the rate that goes without saying.

    Raises:
        ConfigError: a rate outside (0, 1].
    """
    if not 0.0 < rate <= 1.0:
        raise ConfigError(f"`{rate}` is outside (0, 1]", where=f"{name}.rate")

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        del context
        changes = [change(character, rng) for character in draft.text]
        if all(changed is None for changed in changes):
            return NotApplicable("the text has no character that it changes")
        pairs = zip(draft.text, changes, strict=True)
        return draft.with_text("".join(c if new is None or rng.random() >= rate else new for c, new in pairs))

    return RuleStyle(name if rate == usual else f"{name}:rate={rate:g}", "noise", mechanism, rule, content=[rate])


def leet(rate: float = 1.0) -> Style:
    """Digits for letters."""
    return noise("leet", "writes digits for letters", lambda c, _: _LEET_OF.get(c.lower()), rate, usual=1.0)


def disemvowel(rate: float = 1.0) -> Style:
    """No vowels."""
    return noise("disemvowel", "leaves vowels out", lambda c, _: "" if c in _VOWELS else None, rate, usual=1.0)


def homoglyph(rate: float = 0.5) -> Style:
    """Letters of other scripts that look alike."""

    def lookalike(character: str, rng: random.Random) -> str | None:
        signs = _LOOKALIKES_OF.get(character)
        return rng.choice(signs) if signs else None

    return noise("homoglyph", "writes letters of other scripts that look alike", lookalike, rate, usual=0.5)


def zero_width(rate: float = 0.5) -> Style:
    """Invisible characters after letters."""
    return noise(
        "zero_width",
        "puts invisible characters between letters",
        lambda c, rng: c + rng.choice(ZERO_WIDTH) if c.isalnum() else None,
        rate,
        usual=0.5,
    )


def zalgo(rate: float = 0.5) -> Style:
    """Stacks of accents on letters."""

    def stacked(character: str, rng: random.Random) -> str | None:
        if not character.isalpha():
            return None
        return character + "".join(rng.choices(_MARKS, k=rng.randint(_LEAST_MARKS, _MOST_MARKS)))

    return noise("zalgo", "stacks accents on letters", stacked, rate, usual=0.5)


STYLES: Final[Mapping[str, StyleFactory]] = {
    "leet": leet,
    "disemvowel": disemvowel,
    "homoglyph": homoglyph,
    "zero_width": zero_width,
    "zalgo": zalgo,
}
