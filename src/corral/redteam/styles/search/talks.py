"""Talks with a model that writes prompts: what PAIR and TAP say to it, and what they read of its replies.

The wording is Corral's own and neutral: no published instructions, no examples of harm. Deviations from both papers:
the score is the run's judge's, from 1 to 10; a talk keeps its last four rounds; a reply that is not in the form asked
for is asked for once more and then left out of the round.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from corral.core.errors import CorralError
from corral.data.messages import Conversation, Message
from corral.models.engines.base import GenerationSettings
from corral.models.engines.each import generate_each
from corral.redteam.styles.search.tools import Attacker, Reply
from corral.redteam.styles.templates import read_packaged
from corral.synth.templates import fill

Talk = tuple[Message, ...]
"""What was said after the instructions, from the first message asked for to the last score."""

_KEPT_ROUNDS: Final = 4
_ASKED: Final = 2
_MAX_CHARS: Final = 4000
_WRITING: Final = GenerationSettings(max_new_tokens=400, temperature=1.0, top_p=0.9)


def talk_wording() -> Mapping[str, str]:
    """What a writer of prompts is told, for the id of a style that talks to one."""
    wording: Mapping[str, str] = read_packaged("search")["pair"]
    return wording


def quoted(text: str) -> str:
    """A text as a JSON string, so that it cannot pass for instructions around it."""
    return json.dumps(text, ensure_ascii=False)


class Writer:
    """A model that writes prompts which carry one request, in the light of answers and scores.

    Args:
        attacker: the model.
        request: what every prompt is to ask for.
        rng: of its sampling.
    """

    def __init__(self, attacker: Attacker, request: str, rng: random.Random) -> None:
        self._attacker = attacker
        self._rng = rng
        self._request = quoted(request)
        self._wording = talk_wording()
        self._system = Message.of("system", fill(self._wording["system"], request=self._request))

    def opening(self) -> Talk:
        """A talk in which nothing was proposed yet."""
        return (Message.of("user", fill(self._wording["first"], request=self._request)),)

    def proposals(self, talks: Sequence[Talk]) -> dict[int, str]:
        """Index of a talk to its next prompt, of those that gave one.

        Raises:
            CorralError: the model cannot answer a talk.
        """
        asked = [Conversation((self._system, *talk[-2 * _KEPT_ROUNDS - 1 :])) for talk in talks]
        found: dict[int, str] = {}
        for _ in range(_ASKED):
            left = [i for i in range(len(asked)) if i not in found]
            settings = replace(_WRITING, seed=self._rng.getrandbits(31))
            written = generate_each(self._attacker.engine, [asked[i] for i in left], settings)
            for i, reply in zip(left, written, strict=True):
                if isinstance(reply, CorralError):
                    raise reply
                if (text := proposal(reply.text)) is not None:
                    found[i] = text
        return dict(sorted(found.items()))

    def told(self, talk: Talk, text: str, reply: Reply) -> Talk:
        """A talk with a prompt of its, the target's answer and the score behind it."""
        values = {"answer": quoted(reply.text), "score": str(1 + round(9 * reply.score))}
        return (
            *talk,
            Message.of("assistant", json.dumps({"prompt": text}, ensure_ascii=False)),
            Message.of("user", fill(self._wording["feedback"], request=self._request, **values)),
        )


def proposal(reply: str) -> str | None:
    """Field `prompt` of the one JSON object in a writer's reply; ``None`` if there is none."""
    start, end = reply.find("{"), reply.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        found: Any = json.loads(reply[start : end + 1])
    except (json.JSONDecodeError, RecursionError):
        return None
    text = found.get("prompt") if isinstance(found, dict) else None
    if not isinstance(text, str) or not text.strip() or len(text) > _MAX_CHARS:
        return None
    return text.strip()
