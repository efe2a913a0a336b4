"""PAIR: a second model rewrites the request in the light of the target's answer and its score.

Source: Chao et al., arXiv 2310.08419. Several streams of a talk with the attacking model go side by side; in each
round it proposes a prompt, the target answers, the judge scores, and answer and score go back to it. The wording is
Corral's own and neutral: no published instructions, no examples. Defaults are those of the public repository (3
streams, 3 rounds; the paper has 20 streams). Deviations: the score is the judge's, from 1 to 10; a talk keeps its last
four rounds; a reply that is not in the form asked for is asked for once more and then left out of the round.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from corral.core.errors import ConfigError, CorralError
from corral.data.messages import Conversation, Message
from corral.models.engines.base import GenerationSettings
from corral.models.engines.each import generate_each
from corral.redteam.styles.base import Style
from corral.redteam.styles.prompt import Draft, Needs, NotApplicable
from corral.redteam.styles.search.tools import Attacker, Found, Reply, SearchTools, searching
from corral.redteam.styles.templates import read_packaged
from corral.synth.templates import fill

_DEFAULTS: Final = {"streams": 3, "rounds": 3}
_KEPT_ROUNDS: Final = 4
_ASKED: Final = 2
_MAX_CHARS: Final = 4000
_WRITING: Final = GenerationSettings(max_new_tokens=400, temperature=1.0, top_p=0.9)


def pair(streams: int = 3, rounds: int = 3) -> Style:
    """Prompts that an attacking model refines from the judge's score.

    Args:
        streams: talks side by side.
        rounds: proposals in each.

    Raises:
        ConfigError: a count below 1.
    """
    for name, value in (("streams", streams), ("rounds", rounds)):
        if value < 1:
            raise ConfigError(f"`{value}` is below 1", where=f"pair.{name}")
    wording = read_packaged("search")["pair"]

    def search(draft: Draft, tools: SearchTools, rng: random.Random) -> Found | NotApplicable:
        if tools.attacker is None:
            return NotApplicable("needs a model that writes prompts")
        return _Talks(draft, tools, tools.attacker, wording, rng).search(streams, rounds)

    return searching(
        "pair",
        "lets a second model refine the prompt from the target's answers and their scores",
        search,
        version=1,
        defaults=_DEFAULTS,
        chosen={"streams": streams, "rounds": rounds},
        content=wording,
        needs=Needs(attacker=True),
    )


class _Talks:
    """The streams of one search."""

    def __init__(
        self, draft: Draft, tools: SearchTools, attacker: Attacker, wording: Mapping[str, str], rng: random.Random
    ) -> None:
        self._draft = draft
        self._tools = tools
        self._attacker = attacker
        self._wording = wording
        self._rng = rng
        self._queries = 0

    def search(self, streams: int, rounds: int) -> Found | NotApplicable:
        request = json.dumps(self._draft.text, ensure_ascii=False)
        system = Message.of("system", fill(self._wording["system"], request=request))
        first = Message.of("user", fill(self._wording["first"], request=request))
        said: list[tuple[Message, ...]] = [(first,) for _ in range(streams)]
        best: tuple[float, str] | None = None
        for number in range(1, rounds + 1):
            talks = [Conversation((system, *each[-2 * _KEPT_ROUNDS - 1 :])) for each in said]
            proposed = self._proposals(talks)
            replies = self._tools.ask(self._draft, list(proposed.values()))
            self._queries += len(replies)
            for (stream, text), reply in zip(proposed.items(), replies, strict=True):
                if reply.judgement.complies:
                    return self._found(text, reply.score, number, succeeded=True)
                if best is None or reply.score > best[0]:
                    best = (reply.score, text)
                said[stream] += self._back(text, reply, request)
        if best is None:
            return NotApplicable("the attacking model gave no prompt in the form asked for")
        return self._found(best[1], best[0], rounds, succeeded=False)

    def _proposals(self, talks: Sequence[Conversation]) -> dict[int, str]:
        """Stream to its next prompt, of those that gave one."""
        found: dict[int, str] = {}
        for _ in range(_ASKED):
            left = [i for i in range(len(talks)) if i not in found]
            seed = self._rng.getrandbits(31)
            settings = GenerationSettings(
                _WRITING.max_new_tokens, temperature=_WRITING.temperature, top_p=_WRITING.top_p, seed=seed
            )
            written = generate_each(self._attacker.engine, [talks[i] for i in left], settings)
            for i, reply in zip(left, written, strict=True):
                if isinstance(reply, CorralError):
                    raise reply
                if (text := proposal(reply.text)) is not None:
                    found[i] = text
        return dict(sorted(found.items()))

    def _back(self, text: str, reply: Reply, request: str) -> tuple[Message, Message]:
        values = {"answer": json.dumps(reply.text, ensure_ascii=False), "score": str(1 + round(9 * reply.score))}
        return (
            Message.of("assistant", json.dumps({"prompt": text}, ensure_ascii=False)),
            Message.of("user", fill(self._wording["feedback"], request=request, **values)),
        )

    def _found(self, text: str, score: float, steps: int, *, succeeded: bool) -> Found:
        return Found(text, succeeded, score, steps, self._queries, {"attacker": self._attacker.engine.name})


def proposal(reply: str) -> str | None:
    """Field `prompt` of the one JSON object in an attacking model's reply; ``None`` if there is none."""
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
