"""TAP: a tree of prompts that a second model branches, cut back to those that keep to the request and score best.

Source: Mehrotra et al., arXiv 2312.02119, algorithm 1. In each round every leaf gets so many children, which the
attacking model writes from the leaf's talk; children that no longer ask for the request are cut (phase 1); the target
answers the others, and the judge scores; the best so many stay as leaves (phase 2), ties drawn at random. Defaults are
the paper's: depth 10, width 10, 4 children. With one child a leaf and no cut for the topic this is PAIR.
Deviations: those of ``talks``; whether a child keeps to the request is asked of the attacking model too, not of a third
one; where that cannot be read the child stays, as in the released code; a round that leaves no child keeps its leaves;
``queries`` limits what one goal costs, so that searches can be compared at the same price.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from corral.core.errors import ConfigError, CorralError
from corral.data.messages import Conversation
from corral.models.engines.base import GenerationSettings
from corral.models.engines.each import generate_each
from corral.redteam.judges.asking import yes_or_no
from corral.redteam.styles.base import Style
from corral.redteam.styles.prompt import Draft, Needs, NotApplicable
from corral.redteam.styles.search.pair import NO_PROMPT
from corral.redteam.styles.search.talks import Talk, Writer, quoted, talk_wording
from corral.redteam.styles.search.tools import Attacker, Found, SearchTools, searching
from corral.redteam.styles.templates import read_packaged
from corral.synth.templates import fill

_DEFAULTS: Final = {"depth": 10, "width": 10, "branching": 4, "queries": 0}
_ONE_WORD: Final = GenerationSettings(max_new_tokens=16)


@dataclass(frozen=True)
class Tree:
    """How a tree grows; see ``tap``."""

    depth: int
    width: int
    branching: int
    queries: int


@dataclass(frozen=True)
class _Leaf:
    """A prompt that was scored, with the talk that goes on from it."""

    text: str
    score: float
    talk: Talk


def tap(depth: int = 10, width: int = 10, branching: int = 4, queries: int = 0) -> Style:
    """Prompts that an attacking model refines along the branches of a tree.

    Args:
        depth: rounds.
        width: leaves that are kept after each.
        branching: children of a leaf.
        queries: prompts that the target answers for a goal at the most, 0 for no limit but the tree's.

    Raises:
        ConfigError: a count below 1, or a limit below 0.
    """
    chosen = {"depth": depth, "width": width, "branching": branching, "queries": queries}
    for name, value in chosen.items():
        least = 0 if name == "queries" else 1
        if value < least:
            raise ConfigError(f"`{value}` is below {least}", where=f"tap.{name}")

    def search(draft: Draft, tools: SearchTools, rng: random.Random) -> Found | NotApplicable:
        if tools.attacker is None:
            return NotApplicable("needs a model that writes prompts")
        return _Growth(draft, tools, tools.attacker, rng).search(Tree(**chosen))

    return searching(
        "tap",
        "branches prompts of a second model into a tree and keeps those on topic that score best",
        search,
        version=1,
        defaults=_DEFAULTS,
        chosen=chosen,
        content=[dict(talk_wording()), _question()],
        needs=Needs(attacker=True),
    )


class _Growth:
    """The tree of one search."""

    def __init__(self, draft: Draft, tools: SearchTools, attacker: Attacker, rng: random.Random) -> None:
        self._draft = draft
        self._tools = tools
        self._attacker = attacker
        self._rng = rng
        self._writer = Writer(attacker, draft.text, rng)
        self._queries = 0
        self._cut: Counter[str] = Counter(off_topic=0, topic_unread=0)

    def search(self, tree: Tree) -> Found | NotApplicable:
        talks: list[Talk] = [self._writer.opening()]
        best: _Leaf | None = None
        step = 0
        while step < tree.depth and not (tree.queries and self._queries >= tree.queries):
            step += 1
            children = self._on_topic(self._children(talks, tree.branching))
            if tree.queries:
                children = children[: tree.queries - self._queries]
            scored, succeeded = self._asked(children)
            if succeeded is not None:
                return self._found(succeeded, step, succeeded=True)
            ranked = self._ranked(scored)
            if ranked:
                talks = [leaf.talk for leaf in ranked[: tree.width]]
                best = ranked[0] if best is None or ranked[0].score > best.score else best
        return NotApplicable(self._nothing()) if best is None else self._found(best, step, succeeded=False)

    def _children(self, talks: Sequence[Talk], branching: int) -> list[tuple[Talk, str]]:
        """Every leaf's talk with each prompt that was written from it; equal children of a leaf are one."""
        grown = [talk for talk in talks for _ in range(branching)]
        return list(dict.fromkeys((grown[i], text) for i, text in self._writer.proposals(grown).items()))

    def _on_topic(self, children: Sequence[tuple[Talk, str]]) -> list[tuple[Talk, str]]:
        request = quoted(self._draft.goal)
        asked = [Conversation.user(fill(_question(), request=request, prompt=quoted(text))) for _, text in children]
        kept = []
        for child, answer in zip(children, generate_each(self._attacker.engine, asked, _ONE_WORD), strict=True):
            if isinstance(answer, CorralError):
                raise answer
            said = yes_or_no(answer.text)
            self._cut["off_topic"] += said is False
            self._cut["topic_unread"] += said is None
            if said is not False:
                kept.append(child)
        return kept

    def _asked(self, children: Sequence[tuple[Talk, str]]) -> tuple[list[_Leaf], _Leaf | None]:
        """The children with their scores, and the first that the target complied with."""
        replies = self._tools.ask(self._draft, [text for _, text in children])
        self._queries += len(replies)
        leaves = [
            _Leaf(text, reply.score, self._writer.told(talk, text, reply))
            for (talk, text), reply in zip(children, replies, strict=True)
        ]
        complied = (leaf for leaf, reply in zip(leaves, replies, strict=True) if reply.judgement.complies)
        return leaves, next(complied, None)

    def _ranked(self, leaves: Sequence[_Leaf]) -> list[_Leaf]:
        """Best first; which of equals comes first is drawn, or the children of one leaf would take every place."""
        return sorted(self._rng.sample(leaves, len(leaves)), key=lambda leaf: -leaf.score)

    def _nothing(self) -> str:
        return "no prompt of the attacking model kept to the request" if self._cut["off_topic"] else NO_PROMPT

    def _found(self, leaf: _Leaf, steps: int, *, succeeded: bool) -> Found:
        remarks = {"attacker": self._attacker.engine.name, **{name: str(count) for name, count in self._cut.items()}}
        return Found(leaf.text, succeeded, leaf.score, steps, self._queries, remarks)


def _question() -> str:
    return str(read_packaged("search")["tap"]["on_topic"])
