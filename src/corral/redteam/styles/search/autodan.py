"""AutoDAN-GA: a genetic search over what stands around the request.

Source: Liu et al., arXiv 2310.04451, the genetic algorithm (not the hierarchical one). A wrapper is a text with a
place for the request; its fitness is the mean log-probability of an affirmative opening of the answer. The fittest
survive, parents are drawn by the softmax of fitness, children take sentences from both, and some sentences are put in
other words by a second model. Wrappers to start from are the user's, or packaged ones in Corral's own harmless
wording. Defaults are the published ones: 100 steps, 64 wrappers, elites 0.1, crossover 0.5 at 5 points, mutation 0.01.
Deviations: without a second model nothing is put in other words; sentences before the request are exchanged with such,
those behind it with those behind it, so that every child has one place for the request; the aim is reached when the
judge says that the answer complies, not when a word list does.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from corral.core.errors import ConfigError, CorralError
from corral.data.messages import Conversation
from corral.models.engines.base import GenerationSettings
from corral.models.engines.each import generate_each
from corral.redteam.styles.base import Style
from corral.redteam.styles.prompt import Draft, Needs, prompt_of
from corral.redteam.styles.search.tools import Found, Reply, SearchTools, affirmative_opening, searching
from corral.redteam.styles.templates import read_packaged
from corral.synth.templates import fill

SLOT: Final = "{goal}"
_DEFAULTS: Final = {"steps": 100, "batch": 64, "elites": 0.1, "crossover": 0.5, "mutation": 0.01}
_POINTS: Final = 5
_LONGER: Final = 3
_AFTER_SENTENCE: Final = re.compile(r"(?<=[.!?:]\s)|(?<=\n)")


@dataclass(frozen=True, slots=True)
class Wrapper:
    """Sentences before and behind the request, their blanks included."""

    before: tuple[str, ...]
    after: tuple[str, ...]

    @classmethod
    def of(cls, template: str) -> Wrapper:
        """A template taken apart.

        Raises:
            ConfigError: the place for the request is not in it exactly once.
        """
        if template.count(SLOT) != 1:
            raise ConfigError(f"a wrapper has `{SLOT}` {template.count(SLOT)} times, not once", where=template[:60])
        before, _, after = template.partition(SLOT)
        return cls(_sentences(before), _sentences(after))

    def around(self, text: str) -> str:
        """The request in it."""
        return "".join((*self.before, text, *self.after))


@dataclass(frozen=True, slots=True)
class Breeding:
    """How a search breeds; see ``autodan_ga``."""

    steps: int
    batch: int
    elites: float
    crossover: float
    mutation: float


def autodan_ga(
    steps: int = 100, batch: int = 64, elites: float = 0.1, crossover: float = 0.5, mutation: float = 0.01
) -> Style:
    """The wrapper, of many generations, after which an affirmative opening is likeliest.

    Args:
        steps: generations.
        batch: wrappers in each.
        elites: share that survives unchanged.
        crossover: chance that two parents exchange sentences.
        mutation: chance that a sentence of a child is put in other words.

    Raises:
        ConfigError: a count too small, or a chance outside [0, 1].
    """
    breeding = Breeding(steps, batch, elites, crossover, mutation)
    chosen = asdict(breeding)
    for name, least in (("steps", 1), ("batch", 2)):
        if chosen[name] < least:
            raise ConfigError(f"`{chosen[name]}` is below {least}", where=f"autodan_ga.{name}")
    for name in ("elites", "crossover", "mutation"):
        if not 0 <= chosen[name] <= 1:
            raise ConfigError(f"`{chosen[name]}` is outside [0, 1]", where=f"autodan_ga.{name}")
    packaged = read_packaged("search")

    def search(draft: Draft, tools: SearchTools, rng: random.Random) -> Found:
        seeds = [Wrapper.of(each) for each in tools.wrappers or packaged["wrappers"]]
        return _Population(draft, tools, rng, packaged["rephrase"]).search(seeds, breeding)

    return searching(
        "autodan_ga",
        "breeds what stands around the request until an affirmative opening is likely",
        search,
        version=1,
        defaults=_DEFAULTS,
        chosen=chosen,
        content=[packaged["wrappers"], packaged["rephrase"], packaged["opening"]],
        needs=Needs(likelihoods=True),
    )


class _Population:
    """The wrappers of one search."""

    def __init__(self, draft: Draft, tools: SearchTools, rng: random.Random, rephrase: str) -> None:
        self._draft = draft
        self._tools = tools
        self._rng = rng
        self._rephrase = rephrase
        self._opening = affirmative_opening(draft.text)
        self._fitness: dict[Wrapper, float] = {}
        self._replies: dict[Wrapper, Reply] = {}

    def search(self, seeds: Sequence[Wrapper], breeding: Breeding) -> Found:
        batch, mutation = breeding.batch, breeding.mutation
        parents = [self._rng.choices(seeds, k=2) for _ in range(batch - len(seeds))]
        filled = [crossed(mother, father, self._rng) for mother, father in parents]
        # As published, those beyond the given ones are varied whatever the chance of mutation.
        population = [*seeds[:batch], *self._in_other_words(filled, 1.0 if mutation else 0.0, one=True)]
        kept = math.ceil(breeding.elites * batch)
        ranked, step = self._ranked(population), 1
        while not self._complies(ranked[0]) and step < breeding.steps:
            children = [self._child(ranked, breeding.crossover) for _ in range(batch - kept)]
            ranked = self._ranked([*ranked[:kept], *self._in_other_words(children, mutation)])
            step += 1
        return self._found(ranked[0], step)

    def _ranked(self, population: Sequence[Wrapper]) -> list[Wrapper]:
        """Fittest first; each wrapper is scored once."""
        new = [each for each in dict.fromkeys(population) if each not in self._fitness]
        drafts = [self._draft.with_text(each.around(self._draft.text)) for each in new]
        scores = self._tools.engine.logprobs([(prompt_of(draft), self._opening) for draft in drafts])
        self._fitness |= {each: score.total / len(score.logprobs) for each, score in zip(new, scores, strict=True)}
        return sorted(population, key=lambda each: -self._fitness[each])

    def _child(self, ranked: Sequence[Wrapper], crossover: float) -> Wrapper:
        most = self._fitness[ranked[0]]
        weights = [math.exp(self._fitness[each] - most) for each in ranked]
        mother, father = self._rng.choices(ranked, weights, k=2)
        return crossed(mother, father, self._rng) if self._rng.random() < crossover else mother

    def _in_other_words(self, wrappers: Sequence[Wrapper], chance: float, *, one: bool = False) -> list[Wrapper]:
        """Wrappers with some sentences put in other words, by one call of the second model; one each if asked for."""
        attacker = self._tools.attacker
        places: list[tuple[int, str, int]] = []
        for number, wrapper in enumerate(wrappers if attacker is not None else ()):
            sentences = [(number, side, i) for side in ("before", "after") for i in range(len(getattr(wrapper, side)))]
            drawn = self._rng.sample(sentences, min(1, len(sentences))) if one else sentences
            places += [place for place in drawn if self._rng.random() < chance]
        out = list(wrappers)
        if attacker is None or not places:
            return out
        asked = [
            Conversation.user(fill(self._rephrase, sentence=json.dumps(getattr(out[n], side)[i].strip())))
            for n, side, i in places
        ]
        settings = GenerationSettings(max_new_tokens=128, temperature=1.0, top_p=0.9, seed=self._rng.getrandbits(31))
        for (n, side, i), reply in zip(places, generate_each(attacker.engine, asked, settings), strict=True):
            if isinstance(reply, CorralError):
                raise reply
            sentences_of = list(getattr(out[n], side))
            sentences_of[i] = reworded(sentences_of[i], reply.text)
            out[n] = replace(out[n], **{side: tuple(sentences_of)})
        return out

    def _complies(self, wrapper: Wrapper) -> bool:
        if wrapper not in self._replies:
            (self._replies[wrapper],) = self._tools.ask(self._draft, [wrapper.around(self._draft.text)])
        return self._replies[wrapper].judgement.complies

    def _found(self, best: Wrapper, steps: int) -> Found:
        return Found(
            best.around(self._draft.text),
            self._replies[best].judgement.complies,
            self._fitness[best],
            steps,
            len(self._fitness) + len(self._replies),
            {"mutation": "none" if self._tools.attacker is None else self._tools.attacker.engine.name},
        )


def crossed(mother: Wrapper, father: Wrapper, rng: random.Random) -> Wrapper:
    """A child with sentences of both, in their places."""
    return Wrapper(_exchanged(mother.before, father.before, rng), _exchanged(mother.after, father.after, rng))


def reworded(sentence: str, reply: str) -> str:
    """A sentence as a model put it, with the blanks around the one before; unchanged if the reply cannot be one."""
    new = " ".join(reply.split()).strip('"')
    bare = sentence.strip()
    if not bare or not new or SLOT in new or len(new) > _LONGER * max(len(bare), 20):
        return sentence
    return sentence.replace(bare, new, 1)


def _sentences(text: str) -> tuple[str, ...]:
    return tuple(filter(None, _AFTER_SENTENCE.split(text)))


def _exchanged(mother: Sequence[str], father: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    """Stretches between random cuts, each from one of the two; what is beyond the shorter one is the last one's."""
    shared = min(len(mother), len(father))
    cuts = sorted(rng.sample(range(1, shared), min(_POINTS, shared - 1))) if shared > 1 else []
    out: list[str] = []
    for start, stop in zip([0, *cuts], [*cuts, None], strict=True):
        out += rng.choice((mother, father))[start:stop]
    return tuple(out)
