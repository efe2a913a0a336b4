"""The request taken apart, masked, drawn, translated, or put where it is not looked for."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

from corral.core.errors import ConfigError
from corral.redteam.styles.base import RuleStyle, Style
from corral.redteam.styles.prompt import Draft, Needs, NotApplicable, StyleContext
from corral.redteam.styles.templates import StyleFactory, read_packaged, templated, wording

_WORD: Final = re.compile(r"\w+")
_LEAST_LETTERS: Final = 4
_NAMES: Final = "abcdefghijklmnopqrstuvwxy"


def key_words(text: str, count: int) -> list[str]:
    """The longest words of a text, of four letters or more, in the order in which they stand."""
    words = list(dict.fromkeys(word for word in _WORD.findall(text) if len(word) >= _LEAST_LETTERS))
    longest = sorted(words, key=len, reverse=True)[:count]
    return [word for word in words if word in longest]


def quoted(text: str) -> str:
    """A string literal of Python and of JSON."""
    return json.dumps(text, ensure_ascii=False)


def payload_split(parts: int = 3) -> Style:
    """Variables that the prompt adds up (arXiv 2302.05733).

    Raises:
        ConfigError: fewer than two parts or more than there are names.
    """
    if not 2 <= parts <= len(_NAMES):
        raise ConfigError(f"`{parts}` is outside 2 to {len(_NAMES)}", where="payload_split.parts")
    entry = wording("payload", "payload_split")

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        del context
        if len(draft.text) < parts:
            return NotApplicable(f"the text has fewer than {parts} characters")
        pieces = _cut(draft.text, parts, rng)
        names = _NAMES[: len(pieces)]
        lines = "\n".join(f"Let {name} = {quoted(piece)}" for name, piece in zip(names, pieces, strict=True))
        return draft.with_text(entry.fill(rng, text=lines, sum=" + ".join(names)))

    name = "payload_split" if parts == 3 else f"payload_split:parts={parts}"
    content = [entry.template, parts]
    return RuleStyle(name, "payload", entry.mechanism, rule, version=entry.version, content=content)


def token_mask(words: int = 2) -> Style:
    """Marks for key words, explained apart.

    Raises:
        ConfigError: fewer than one word.
    """
    if words < 1:
        raise ConfigError(f"`{words}` is below 1", where="token_mask.words")
    entry = wording("payload", "token_mask")

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        del context
        masked = key_words(draft.text, words)
        if not masked:
            return NotApplicable("the text has no word to mask")
        marks = {word: f"[GAP {number}]" for number, word in enumerate(masked, start=1)}
        text = _WORD.sub(lambda match: marks.get(match[0], match[0]), draft.text)
        key = ", ".join(f"{mark} = {quoted(word)}" for word, mark in marks.items())
        return draft.with_text(entry.fill(rng, text=text, key=key))

    name = "token_mask" if words == 2 else f"token_mask:words={words}"
    return RuleStyle(name, "payload", entry.mechanism, rule, version=entry.version, content=[entry.template, words])


def art_prompt() -> Style:
    """The longest word as a picture (arXiv 2402.11753)."""
    entry, letters = wording("payload", "art_prompt"), read_packaged("letters")["letters"]

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        del context
        drawable = [word for word in key_words(draft.text, len(draft.text)) if set(word.upper()) <= letters.keys()]
        if not drawable:
            return NotApplicable("the text has no word that can be drawn")
        word = max(drawable, key=len)
        before, _, after = draft.text.partition(word)
        art = drawn(word, letters)
        return draft.with_text(entry.fill(rng, art=art, text=f"{before}[PICTURE]{after}"))

    return RuleStyle(
        "art_prompt", "payload", entry.mechanism, rule, version=entry.version, content=[entry.template, letters]
    )


def drawn(word: str, letters: Mapping[str, str]) -> str:
    """A word in letters of five rows, side by side."""
    rows = zip(*(letters[letter].split("/") for letter in word.upper()), strict=True)
    return "\n".join("  ".join(row) for row in rows)


def low_resource(language: str = "zu") -> Style:
    """The request in another language, from the user's translations (arXiv 2310.02446)."""

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        del rng
        translated = context.translations.get((draft.text, language))
        if translated is None:
            return NotApplicable(f"no translation into `{language}` was given")
        return draft.with_text(translated)

    return RuleStyle(
        f"low_resource:language={language}",
        "payload",
        "asks in a language that models are trained on little",
        rule,
        content=[language],
        needs=Needs(user_data=True),
    )


def _cut(text: str, parts: int, rng: random.Random) -> list[str]:
    """Pieces that join to the text: between words where there are enough of them, else between characters."""
    gaps = [match.end() for match in re.finditer(r"\s+", text) if 0 < match.end() < len(text)]
    places = gaps if len(gaps) >= parts - 1 else list(range(1, len(text)))
    cuts = [0, *sorted(rng.sample(places, parts - 1)), len(text)]
    return [text[start:stop] for start, stop in pairwise(cuts)]


STYLES: Final[Mapping[str, StyleFactory]] = {
    "payload_split": payload_split,
    "token_mask": token_mask,
    "art_prompt": art_prompt,
    "low_resource": low_resource,
    **templated("payload", ["policy_puppetry"]),
}
