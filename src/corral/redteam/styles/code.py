"""The request as data in code: CodeAttack (arXiv 2403.07865) and CodeChameleon (arXiv 2402.16717), reworded."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

from corral.core.errors import ConfigError
from corral.redteam.styles.base import RuleStyle, Style
from corral.redteam.styles.payload import quoted
from corral.redteam.styles.prompt import Draft, StyleContext
from corral.redteam.styles.templates import StyleFactory, wording

Structure = Literal["stack", "list", "string"]
Order = Literal["reverse", "odd_even"]

_DECODERS: Final[Mapping[str, str]] = {
    "reverse": 'def request(words):\n    return " ".join(reversed(words))',
    "odd_even": (
        "def request(words):\n"
        "    half = (len(words) + 1) // 2\n"
        '    restored = [""] * len(words)\n'
        "    restored[0::2], restored[1::2] = words[:half], words[half:]\n"
        '    return " ".join(restored)'
    ),
}


def code_attack(structure: Structure = "stack") -> Style:
    """Words of the request in a data structure of a program to be completed.

    Raises:
        ConfigError: no such structure.
    """
    if structure not in get_args(Structure):
        hint = f"Use {', '.join(get_args(Structure))}."
        raise ConfigError(f"no structure is called `{structure}`", where="code_attack.structure", hint=hint)
    entry = wording("code", f"code_attack_{structure}")

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft:
        del context
        return draft.with_text(entry.fill(rng, text=_stored(draft.text, structure)))

    name = "code_attack" if structure == "stack" else f"code_attack:structure={structure}"
    return RuleStyle(name, "code", entry.mechanism, rule, version=entry.version, content=entry.template)


def code_chameleon(order: Order = "reverse") -> Style:
    """Reordered words beside the function that restores them.

    Raises:
        ConfigError: no such order.
    """
    if order not in get_args(Order):
        hint = f"Use {', '.join(get_args(Order))}."
        raise ConfigError(f"no order is called `{order}`", where="code_chameleon.order", hint=hint)
    entry = wording("code", "code_chameleon")

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft:
        del context
        words = _reordered(draft.text.split(" "), order)
        listed = f"[{', '.join(map(quoted, words))}]"
        return draft.with_text(entry.fill(rng, decoder=_DECODERS[order], text=listed))

    name = "code_chameleon" if order == "reverse" else f"code_chameleon:order={order}"
    content = [entry.template, _DECODERS[order]]
    return RuleStyle(name, "code", entry.mechanism, rule, version=entry.version, content=content)


def _stored(text: str, structure: Structure) -> str:
    if structure == "string":
        return quoted(text)
    words = text.split(" ")
    pushed = reversed(words) if structure == "stack" else words
    return "\n".join(f"words.append({quoted(word)})" for word in pushed)


def _reordered(words: Sequence[str], order: Order) -> list[str]:
    return list(reversed(words)) if order == "reverse" else [*words[0::2], *words[1::2]]


STYLES: Final[Mapping[str, StyleFactory]] = {"code_attack": code_attack, "code_chameleon": code_chameleon}
