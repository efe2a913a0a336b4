"""The task: every choice scored after its context, and the likeliest taken as the model's answer.

``acc`` takes the choice of the highest log-likelihood, ``acc_norm`` the one of the highest log-likelihood a character,
``acc_bytes`` a byte; the definitions, the tokenisation and the order of ties (first choice) are those of EleutherAI's
lm-evaluation-harness, with which the figures agree. ``margin`` is the log-likelihood of the right choice less that of
the best wrong one, in nats: it moves before the accuracy does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from corral.core.errors import ConfigError, DataError, EngineError
from corral.core.files import sha256_json
from corral.core.metric_inputs import Floats
from corral.evals.sample_cache import SampleCache, item_hash
from corral.evals.tasks.formulas import Mean
from corral.evals.tasks.multiple_choice.items import ChoiceItem, ChoiceSet
from corral.evals.tasks.multiple_choice.local import local_sets
from corral.evals.tasks.task import Measure, Progress, SampleScore, Subject, TaskResult
from corral.models.engines.base import Engine

_AS_WRONG: Final = 0.0
_VALUES: Final = ("correct", "acc", "acc_norm", "acc_bytes", "margin")


@dataclass(frozen=True)
class MultipleChoice:
    """Accuracy of a model over all sets together, and over each.

    Guards have no part in it. An item that does not fit the model's context is counted as unscored, and as wrong.

    Attributes:
        sets: what is asked.
        limit: at most so many items a set, spread evenly over it; all when ``None``.
        batch_size: items that are scored between two writes to the cache.
        task_name: unique among the tasks of a scorecard.

    Raises:
        ConfigError: no set, two sets of one name, or a number below 1.
    """

    sets: tuple[ChoiceSet, ...] = field(default_factory=local_sets)
    limit: int | None = None
    batch_size: int = 20
    task_name: str = "multiple_choice"

    def __post_init__(self) -> None:
        names = [each.name for each in self.sets]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"expected sets of different names, got `{names}`", where="sets")
        for setting, value in (("limit", self.limit), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"`{value}` is below 1", where=setting)

    @property
    def name(self) -> str:
        """As given."""
        return self.task_name

    @property
    def version(self) -> str:
        """Raised whenever prompts or rules change; changed items show in the data hash."""
        return "1"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Of all sets, then of each."""
        items = [item for each in self.sets for item in _spread(each.items, self.limit)]
        chance = sum(1 / len(item.choices) for item in items) / len(items)
        whole = [
            _share("accuracy", "Multiple choice, accuracy over all sets", "correct", "", chance, headline=True),
            _margin("margin", "Multiple choice, right choice over the best wrong one", ""),
        ]
        return (*whole, *(measure for each in self.sets for measure in _measures(each)))

    def run(self, subject: Subject, cache: SampleCache, progress: Progress) -> TaskResult:
        """Score every item, reading what an earlier run found from the cache.

        Raises:
            EngineError: the model could not answer.
        """
        chosen = {each.name: _spread(each.items, self.limit) for each in self.sets}
        progress.start(sum(len(items) for items in chosen.values()))
        samples: list[SampleScore] = []
        for each in self.sets:
            items = chosen[each.name]
            values = cache.fill(
                subject,
                "multiple_choice",
                self.version,
                settings={},
                items=items,
                keys=[item_hash(item.requests) for item in items],
                compute=lambda batch: _score(subject.engine, batch),
                batch_size=self.batch_size,
                progress=progress,
            )
            samples += _samples(each, items, values)
        return TaskResult.of(
            self,
            samples,
            data_hash=sha256_json({"sets": {each.name: each.content_hash for each in self.sets}, "limit": self.limit}),
            caveats=[f"{each.name}: {each.caveat}" for each in self.sets if each.caveat],
        )


def choice_values(nats: Sequence[float], choices: Sequence[str], answer: int) -> dict[str, float]:
    """``acc``, ``acc_norm``, ``acc_bytes`` and ``margin`` of one item.

    Args:
        nats: log-likelihood of each choice.
        choices: their texts.
        answer: index of the right one.
    """
    nats_C = np.array(nats)
    characters_C = np.array([float(len(choice)) for choice in choices])
    bytes_C = np.array([float(len(choice.encode())) for choice in choices])

    def right(scores_C: Floats) -> float:
        return float(scores_C.argmax() == answer)

    return {
        "acc": right(nats_C),
        "acc_norm": right(nats_C / characters_C),
        "acc_bytes": right(nats_C / bytes_C),
        "margin": float(nats_C[answer] - np.delete(nats_C, answer).max()),
    }


def _score(engine: Engine, items: Sequence[ChoiceItem]) -> list[dict[str, Any]]:
    """Log-likelihoods of each item's choices; ``None`` for items that the engine cannot read."""
    try:
        return _score_all(engine, items)
    except DataError as error:
        if len(items) == 1:
            return [{"nats": None, "reason": error.message}]
        return [value for item in items for value in _score(engine, [item])]


def _score_all(engine: Engine, items: Sequence[ChoiceItem]) -> list[dict[str, Any]]:
    pairs = [request for item in items for request in item.requests]
    scores = engine.logprobs(pairs)
    if len(scores) != len(pairs):
        raise EngineError("the engine gave another number of scores than was asked for")
    totals = iter(scores)
    return [{"nats": [next(totals).total for _ in item.requests]} for item in items]


def _samples(
    of_set: ChoiceSet, items: Sequence[ChoiceItem], scored: Sequence[Mapping[str, Any]]
) -> Iterator[SampleScore]:
    for item, value in zip(items, scored, strict=True):
        values: dict[str, float | None] = dict.fromkeys(_VALUES)
        texts = {"context": item.requests[0][0], "choices": "\n".join(item.choices)}
        if value["nats"] is not None:
            values |= choice_values(value["nats"], item.choices, item.answer)
            values["correct"] = values["acc_norm" if of_set.normalised else "acc"]
        else:
            texts["unscored"] = value["reason"]
        key = f"{of_set.name}/{item.id}"
        yield SampleScore(key, key, values, group=of_set.name, texts=texts)


def _spread(items: tuple[ChoiceItem, ...], limit: int | None) -> tuple[ChoiceItem, ...]:
    """At most ``limit`` items, each from the middle of an equal share of the set."""
    if limit is None or len(items) <= limit:
        return items
    return tuple(items[(2 * i + 1) * len(items) // (2 * limit)] for i in range(limit))


def _measures(of_set: ChoiceSet) -> Iterator[Measure]:
    name = of_set.name
    yield _share(f"acc/{name}", f"{name}, accuracy", "acc", name, of_set.chance)
    if of_set.by_length:
        yield _share(f"acc_norm/{name}", f"{name}, accuracy by length", "acc_norm", name, of_set.chance)


def _share(name: str, title: str, value: str, group: str, chance: float, *, headline: bool = False) -> Measure:
    return Measure(
        name=name,
        title=title,
        unit="share",
        higher_is_better=True,
        area="ability",
        formula=Mean(value=value),
        group=group,
        unscored_as=_AS_WRONG,
        chance=chance,
        headline=headline,
    )


def _margin(name: str, title: str, group: str) -> Measure:
    return Measure(
        name=name,
        title=title,
        unit="nats",
        higher_is_better=True,
        area="ability",
        formula=Mean(value="margin"),
        group=group,
    )
