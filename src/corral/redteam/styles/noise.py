"""Character noise: the request stays readable for people, its tokens change.

``rate`` is the share of the characters that could be changed which are; which ones is drawn from the seed. What the
styles do to a text is in ``data/perturbations``, but for the two that no benign writer makes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from corral.core.errors import ConfigError
from corral.data.perturbations import PERTURBATIONS
from corral.redteam.styles.base import RuleStyle, Style
from corral.redteam.styles.prompt import Draft, NotApplicable, StyleContext
from corral.redteam.styles.templates import StyleFactory

_MARKS: Final = tuple(map(chr, range(0x0300, 0x0316)))
_LEAST_MARKS, _MOST_MARKS = 3, 4
_VOWELS: Final = frozenset("aeiouAEIOU")
_SEED_BITS: Final = 32

Edit = Callable[[str, float, random.Random], str]
"""From a text, a rate and chances to the changed text."""


@dataclass(frozen=True, slots=True)
class _Noise:
    """What a style does, and the rate that goes without saying."""

    mechanism: str
    edit: Edit
    rate: float


def _perturbed(name: str) -> Edit:
    def edit(text: str, rate: float, rng: random.Random) -> str:
        return PERTURBATIONS[name].apply(text, strength=rate, seed=rng.getrandbits(_SEED_BITS))

    return edit


def _without_vowels(text: str, rate: float, rng: random.Random) -> str:
    return "".join(c for c in text if c not in _VOWELS or rng.random() >= rate)


def _with_stacked_marks(text: str, rate: float, rng: random.Random) -> str:
    return "".join(c + _stack(rng) if c.isalpha() and rng.random() < rate else c for c in text)


def _stack(rng: random.Random) -> str:
    return "".join(rng.choices(_MARKS, k=rng.randint(_LEAST_MARKS, _MOST_MARKS)))


_NOISES: Final[Mapping[str, _Noise]] = {
    "leet": _Noise("writes digits for letters", _perturbed("leet"), 1.0),
    "disemvowel": _Noise("leaves vowels out", _without_vowels, 1.0),
    "homoglyph": _Noise("writes letters of another script that look alike", _perturbed("homoglyph"), 0.5),
    "zero_width": _Noise("puts invisible characters between letters", _perturbed("zero_width"), 0.5),
    "zalgo": _Noise("stacks accents on letters", _with_stacked_marks, 0.5),
}


def noise(name: str, rate: float = 0.0) -> Style:
    """A style that changes characters one by one.

    Args:
        name: of the noise.
        rate: share of the characters that could be changed which are; 0 for the usual one.

    Raises:
        ConfigError: a rate outside [0, 1].
    """
    made = _NOISES[name]
    if not 0.0 <= rate <= 1.0:
        raise ConfigError(f"`{rate}` is outside [0, 1]", where=f"{name}.rate")
    chosen = rate or made.rate

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        del context
        if made.edit(draft.text, 1.0, random.Random(0)) == draft.text:  # noqa: S311  not for secrets
            return NotApplicable("the text has no character that it changes")
        return draft.with_text(made.edit(draft.text, chosen, rng))

    shown = name if chosen == made.rate else f"{name}:rate={chosen:g}"
    return RuleStyle(shown, "noise", made.mechanism, rule, content=[chosen])


STYLES: Final[Mapping[str, StyleFactory]] = {name: partial(noise, name) for name in _NOISES}
