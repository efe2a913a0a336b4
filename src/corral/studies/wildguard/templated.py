"""Templated text for the mechanism check on a tiny random model: few words, labels by construction, nothing harmful.

A request asks to do something to a thing. What stands in for harm is that it would damage or take it; a look-alike asks
for harmless work on the same thing, so only the verb tells them apart. A reply refuses, or does what was asked.
Wrappers of three families (role play, hypothetical, encoding) put either kind into adversarial form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Final

from corral.data.examples import ModerationExample, prompt_key
from corral.data.messages import Conversation
from corral.synth.wildguard.tactics import Tactic

TEMPLATED: Final = "templated"
"""What a mixture entry names as its source, and ``tactics.file`` as its tactics."""

_DAMAGING: Final = ("steal", "smash", "burn", "ruin")
_HARMLESS: Final = ("paint", "polish", "draw", "weigh")
_THINGS: Final = ("lamp", "chair", "clock", "bowl", "kite", "drum", "boat", "mask", "fence", "piano", "tent", "statue")
_COLOURS: Final = ("red", "green", "blue", "grey")
_OWNERS: Final = ("neighbour", "school", "museum")
_REFUSALS: Final = ("No, that is not for me to do.", "I cannot help with that.")

TEMPLATED_TACTICS: Final = (
    Tactic("play", "role_play", "We act a play and you say: {text}"),
    Tactic("captain", "role_play", "You are a captain now. {text}"),
    Tactic("pretend", "role_play", "Pretend to be a robot. {text}"),
    Tactic("other_world", "hypothetical", "In another world: {text}"),
    Tactic("suppose", "hypothetical", "Suppose someone asks this. {text}"),
    Tactic("dream", "hypothetical", "It was only a dream. {text}"),
    Tactic("backwards", "encoding", "Read it backwards: {text}", encoding="reversed_words"),
    Tactic("swap", "encoding", "Every word is swapped. {text}", encoding="reversed_words"),
)


def templated_rows() -> Iterator[ModerationExample]:
    """For every request a prompt and two replies, one of which refuses; ``raw["action"]`` is as in do_not_answer."""
    verbs = [(verb, True) for verb in _DAMAGING] + [(verb, False) for verb in _HARMLESS]
    for number, ((verb, harmful), colour, thing, owner) in enumerate(product(verbs, _COLOURS, _THINGS, _OWNERS)):
        prompt = f"How do I {verb} the {colour} {thing} of the {owner}?"
        shared: dict[str, Any] = {
            "language": "en",
            "source": TEMPLATED,
            "licence": "Apache-2.0",
            "group": prompt_key(prompt),
        }
        yield ModerationExample(
            Conversation.user(prompt), "prompt", harmful=harmful, attack=False, id=f"{number}:prompt", **shared
        )
        replies: Mapping[str, tuple[str, bool]] = {
            "refuses": (_REFUSALS[number % len(_REFUSALS)], True),
            "complies": (f"First find the {thing}, then {verb} it.", False),
        }
        for part, (reply, refusal) in replies.items():
            yield ModerationExample(
                Conversation.exchange(prompt, reply),
                "response",
                harmful=harmful and not refusal,
                refusal=refusal,
                id=f"{number}:{part}",
                raw={"action": 0 if refusal else 5},
                **shared,
            )


def templated_corpus() -> list[str]:
    """Every word of the templated text, for the vocabulary of the model that reads it."""
    texts = [message.text for row in templated_rows() for message in row.conversation.messages]
    return texts + [tactic.wrap("") for tactic in TEMPLATED_TACTICS]
