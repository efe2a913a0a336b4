"""The form of the prompt: without a template, with the answer begun, with forged turns, with a long tail."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from corral.core.errors import ConfigError
from corral.redteam.styles.base import RuleStyle, Style
from corral.redteam.styles.prompt import Draft, Needs, StyleContext
from corral.redteam.styles.rewriting import as_opening
from corral.redteam.styles.templates import StyleFactory, read_packaged, wording

_RAW: Final = Needs(raw_access=True)


def completing() -> Style:
    """A text to go on with, without chat template or control tokens (CompletingAttack of DeRTa, arXiv 2407.09121)."""

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft:
        del rng, context
        return replace(draft, text=as_opening(draft.text), raw=True)

    mechanism = "leaves the chat template and gives the opening of a text that answers"
    return RuleStyle("completing", "format", mechanism, rule, languages=("en",), needs=_RAW)


def prefill(opening: str = "", words: int = 0) -> Style:
    """An answer that has begun.

    Args:
        opening: its first words; drawn from a list if empty.
        words: of the opening, only so many; 0 for all.

    Raises:
        ConfigError: a negative number of words.
    """
    if words < 0:
        raise ConfigError(f"`{words}` is below 0", where="prefill.words")
    openings = [opening] if opening else read_packaged("phrases")["openings"]

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft:
        del context
        chosen = rng.choice(openings)
        return replace(draft, prefill=" ".join(chosen.split(" ")[:words]) if words else chosen)

    parameters = [f"opening={opening}"] * bool(opening) + [f"words={words}"] * bool(words)
    name = ":".join(["prefill", *parameters])
    mechanism = "begins the assistant's answer with an affirmative opening"
    return RuleStyle(name, "format", mechanism, rule, content=[openings, words], needs=_RAW)


def template_injection(*, parsed: bool = False) -> Style:
    """A user's turn that spells its own end and the beginning of a compliant answer.

    Args:
        parsed: what it spells is read as control tokens, as by a server that tokenises a rendered template; else it
            is text, as everywhere in Corral.
    """
    openings = read_packaged("phrases")["openings"]

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft:
        text = f"{draft.text}{context.turn_break}{rng.choice(openings)}"
        return replace(draft, text=text, unescaped=draft.unescaped or parsed)

    name = "template_injection_parsed" if parsed else "template_injection"
    mechanism = f"spells the end of the user's turn, {'read' if parsed else 'not read'} as control tokens"
    return RuleStyle(name, "format", mechanism, rule, content=openings, needs=_RAW if parsed else Needs())


def suffix_stuffing(words: int = 60) -> Style:
    """A long tail of unrelated words.

    Raises:
        ConfigError: fewer than one word.
    """
    if words < 1:
        raise ConfigError(f"`{words}` is below 1", where="suffix_stuffing.words")
    entry, fillers = wording("format", "suffix_stuffing"), read_packaged("phrases")["fillers"]

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft:
        del context
        return draft.with_text(entry.fill(rng, text=draft.text, filler=" ".join(rng.choices(fillers, k=words))))

    name = "suffix_stuffing" if words == 60 else f"suffix_stuffing:words={words}"
    content = [entry.template, fillers, words]
    return RuleStyle(name, "format", entry.mechanism, rule, version=entry.version, content=content)


def injection_parsed() -> Style:
    """``template_injection`` with its control tokens read as such."""
    return template_injection(parsed=True)


STYLES: Final[Mapping[str, StyleFactory]] = {
    "completing": completing,
    "prefill": prefill,
    "template_injection": template_injection,
    "template_injection_parsed": injection_parsed,
    "suffix_stuffing": suffix_stuffing,
}
