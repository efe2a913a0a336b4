"""Mined pairs, and what became of every instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from corral.data.examples import PreferenceExample
from corral.redteam.egida.expand import Instance


class Yield(StrEnum):
    """What became of an instance."""

    PAIR = "pair"
    NO_UNSAFE = "no unsafe answer"
    NO_SAFE = "no safe answer"
    UNPARSED = "judge gave no label"
    FAILED = "target gave no answer"
    NOT_REACHED = "not reached"


@dataclass(frozen=True, slots=True)
class Pair:
    """A mined pair.

    Attributes:
        instance: what was asked.
        chosen: a safe answer.
        rejected: an unsafe answer of the target.
        chosen_complete: it came to its end.
        rejected_complete: likewise.
    """

    instance: Instance
    chosen: str
    rejected: str
    chosen_complete: bool = True
    rejected_complete: bool = True

    def example(self) -> PreferenceExample:
        """As TRL's trainers want it."""
        return PreferenceExample(
            self.instance.prompt.shown,
            self.chosen,
            self.rejected,
            source=self.instance.base.goal.source,
            licence=self.instance.base.goal.licence,
            chosen_complete=self.chosen_complete,
            rejected_complete=self.rejected_complete,
        )

    def to_json(self) -> dict[str, Any]:
        """As a row of a training file, with its provenance."""
        return {
            "prompt": self.instance.prompt.shown.to_openai(),
            "chosen": self.chosen,
            "rejected": self.rejected,
            "chosen_complete": self.chosen_complete,
            "rejected_complete": self.rejected_complete,
            **{key: value for key, value in self.instance.to_json().items() if key not in ("goal", "messages")},
        }


@dataclass(frozen=True)
class Mined:
    """Pairs, and what became of every instance.

    Attributes:
        pairs: in the order of the instances taken.
        yields: uuid to outcome; all instances.
        instances: as given.
        costs: hours, judged tokens and dollars.
        stopped: why before the last instance, ``None`` when all were taken.
    """

    pairs: tuple[Pair, ...]
    yields: Mapping[str, Yield]
    instances: tuple[Instance, ...]
    costs: Mapping[str, float]
    stopped: str | None

    def table(self) -> dict[str, Any]:
        """Instances by outcome: all of them, by style and by topic (an instance counts under each of its topics)."""
        by_style: dict[str, Counter[str]] = {}
        by_topic: dict[str, Counter[str]] = {}
        for each in self.instances:
            outcome = self.yields[each.uuid].value
            by_style.setdefault(each.style, Counter())[outcome] += 1
            for topic in each.base.topics:
                by_topic.setdefault(topic, Counter())[outcome] += 1
        return {
            "all": dict(Counter(outcome.value for outcome in self.yields.values())),
            "by_style": {style: dict(counts) for style, counts in by_style.items()},
            "by_topic": {topic: dict(counts) for topic, counts in by_topic.items()},
            "styles_without_pairs": [style for style, counts in by_style.items() if not counts[Yield.PAIR.value]],
            "licences": {each.base.goal.source: each.base.goal.licence for each in self.instances},
            "stopped": self.stopped,
        }
