"""PAIR: a second model rewrites the request in the light of the target's answer and its score.

Source: Chao et al., arXiv 2310.08419. Several streams of a talk with the attacking model go side by side; in each
round it proposes a prompt, the target answers, the judge scores, and answer and score go back to it. Defaults are those
of the public repository (3 streams, 3 rounds; the paper has 20 streams). Deviations: those of ``talks``.
"""

from __future__ import annotations

import random
from typing import Final

from corral.core.errors import ConfigError
from corral.redteam.styles.base import Style
from corral.redteam.styles.prompt import Draft, Needs, NotApplicable
from corral.redteam.styles.search.talks import Talk, Writer, talk_wording
from corral.redteam.styles.search.tools import Attacker, Found, SearchTools, searching

NO_PROMPT: Final = "the attacking model gave no prompt in the form asked for"
_DEFAULTS: Final = {"streams": 3, "rounds": 3}


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

    def search(draft: Draft, tools: SearchTools, rng: random.Random) -> Found | NotApplicable:
        if tools.attacker is None:
            return NotApplicable("needs a model that writes prompts")
        return _search(draft, tools, tools.attacker, rng, streams=streams, rounds=rounds)

    return searching(
        "pair",
        "lets a second model refine the prompt from the target's answers and their scores",
        search,
        version=1,
        defaults=_DEFAULTS,
        chosen={"streams": streams, "rounds": rounds},
        content=talk_wording(),
        needs=Needs(attacker=True),
    )


def _search(
    draft: Draft, tools: SearchTools, attacker: Attacker, rng: random.Random, *, streams: int, rounds: int
) -> Found | NotApplicable:
    writer = Writer(attacker, draft.text, rng)
    talks: list[Talk] = [writer.opening()] * streams
    remarks = {"attacker": attacker.engine.name}
    best: tuple[float, str] | None = None
    queries = 0
    for number in range(1, rounds + 1):
        proposed = writer.proposals(talks)
        replies = tools.ask(draft, list(proposed.values()))
        queries += len(replies)
        for (stream, text), reply in zip(proposed.items(), replies, strict=True):
            if reply.judgement.complies:
                return Found(text, True, reply.score, number, queries, remarks)
            if best is None or reply.score > best[0]:
                best = (reply.score, text)
            talks[stream] = writer.told(talks[stream], text, reply)
    if best is None:
        return NotApplicable(NO_PROMPT)
    return Found(best[1], False, best[0], rounds, queries, remarks)
