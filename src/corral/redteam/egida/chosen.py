"""Where the preferred side of a pair comes from: other models, the target itself, or answers that were written.

A later study (arXiv 2504.02193) finds that preferred answers of other models can leave a model easier to attack than
its own would, since style alone then tells the sides apart. So the source is a switch, and ``shortcut`` raises an
alarm. Whatever the source, a preferred answer counts only if the judge calls it safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, Literal, NamedTuple, Protocol

from corral.core.files import sha256_json
from corral.data.self_written.replies import Refusals, refusals
from corral.data.splits import group_fraction
from corral.models.engines.base import GenerationSettings
from corral.redteam.answers import answer
from corral.redteam.attempts import Target
from corral.redteam.egida.expand import Instance
from corral.redteam.settings import RunSettings
from corral.redteam.store import Store

ChosenKind = Literal["pool", "self_safe", "gold"]
Side = Literal["train", "test"]
_REVISION_DIGITS: Final = 16
_TEST_SHARE: Final = 0.3  # of the packaged refusals


class Proposal(NamedTuple):
    """A safe answer that is proposed, and whether it came to its end."""

    text: str
    complete: bool = True


class ChosenSource(Protocol):
    """Proposes safe answers to instances."""

    @property
    def name(self) -> ChosenKind:
        """Of the switch."""

    @property
    def revision(self) -> str:
        """Hash of what the proposals depend on beside the instance."""

    def propose(self, instances: Sequence[Instance]) -> Mapping[str, Sequence[Proposal]]:
        """Answers to each instance by its uuid, the preferred one first; none is a valid answer."""


@cache
def gold_refusals(side: Side | None = None) -> Refusals:
    """The packaged refusals, or those that one side of a split has to itself.

    A refusal's side depends on its words alone: not on a seed, nor on what else is in the list.
    """
    everything = refusals()
    if side is None:
        return everything

    def is_tested(text: str) -> bool:
        return group_fraction(f"egida/chosen/{text}", seed=0) < _TEST_SHARE

    kept = tuple(text for text in everything.general if is_tested(text) is (side == "test"))
    return everything.model_copy(update={"general": kept})


class GoldAnswers:
    """Answers that were written: the user's by base id, else the packaged refusals.

    Pairs to test on whose preferred side is a refusal that was trained on measure memory: give each side its own.

    Args:
        answers: base id to answer.
        seed: of the draw of refusals.
        side: draw from the refusals of this side of a split alone; ``None`` where all pairs are trained on.
    """

    name: ChosenKind = "gold"

    def __init__(self, answers: Mapping[str, str] | None = None, *, seed: int = 0, side: Side | None = None) -> None:
        self._answers = dict(answers or {})
        self._seed = seed
        self._side = side

    @property
    def revision(self) -> str:
        """Hash of the answers and the packaged refusals' version."""
        of_side = [] if self._side is None else [gold_refusals(self._side).general]
        return sha256_json([self._answers, refusals().version, self._seed, *of_side])[:_REVISION_DIGITS]

    def propose(self, instances: Sequence[Instance]) -> Mapping[str, Sequence[Proposal]]:
        """See ``ChosenSource``."""
        return {each.uuid: [Proposal(self._answer(each))] for each in instances}

    def _answer(self, instance: Instance) -> str:
        drawn = gold_refusals(self._side)
        return self._answers.get(instance.base.id) or drawn.draw(f"{self._seed}/{instance.uuid}")


class PoolAnswers:
    """Answers of models unrelated to the target, one model after the other, each asked what the target is asked.

    Args:
        pool: models, the preferred one first.
        store: keeps their answers.
        generation: how they answer.
    """

    name: ChosenKind = "pool"

    def __init__(self, pool: Sequence[Target], store: Store, generation: GenerationSettings) -> None:
        self._pool = pool
        self._store = store
        self._settings = RunSettings(generation=generation, batch_size=store.batch_size)

    @property
    def revision(self) -> str:
        """Hash of the models and how they answer."""
        described = [[each.name, each.revision] for each in self._pool]
        return sha256_json([described, repr(self._settings.generation)])[:_REVISION_DIGITS]

    def propose(self, instances: Sequence[Instance]) -> Mapping[str, Sequence[Proposal]]:
        """See ``ChosenSource``."""
        found: dict[str, list[Proposal]] = {each.uuid: [] for each in instances}
        attempts = {each.attempt(0).key: each.uuid for each in instances}
        for target in self._pool:
            answers = answer(target, [each.attempt(0) for each in instances], self._store, self._settings)
            for key, row in answers.rows.items():
                if row["decoded"] and row["decoded"].strip():
                    found[attempts[key]].append(Proposal(str(row["answer"]), row["finish_reason"] == "stop"))
        return found


class OwnAnswers:
    """The target's own safe answers among its samples; the miner fills them in, so nothing more is asked."""

    name: ChosenKind = "self_safe"
    revision = "1"

    def propose(self, instances: Sequence[Instance]) -> Mapping[str, Sequence[Proposal]]:
        """Nothing: the miner takes the samples that were judged safe."""
        return {each.uuid: [] for each in instances}
