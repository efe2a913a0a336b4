"""Training and test instances: topics, styles and near duplicates held out, and a check that nothing leaks.

Base requests are clustered by MinHash; a cluster is on one side. One with a held-out topic is tested, and so is a share
of the others. Held-out styles are never trained on. Test instances fall into four cells, by whether their topic and
their style were seen in training, so that the two kinds of newness are not mixed.

Preferred answers can leak, too: a pair whose preferred answer was trained on may show what was remembered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from corral.core.errors import ConfigError, DataError, suggest
from corral.data.dedup import cluster_texts
from corral.data.examples import prompt_key
from corral.data.splits import group_fraction
from corral.redteam.egida.expand import Instance
from corral.redteam.egida.pairs import Pair
from corral.redteam.egida.topics import require_topics

Cell = Literal[
    "seen topic, seen style", "seen topic, unseen style", "unseen topic, seen style", "unseen topic, unseen style"
]
CELLS: Final[tuple[Cell, ...]] = (
    "seen topic, seen style",
    "seen topic, unseen style",
    "unseen topic, seen style",
    "unseen topic, unseen style",
)


@dataclass(frozen=True)
class SplitSettings:
    """What is held out.

    Attributes:
        topics: never trained on; none is a valid choice.
        styles: never trained on.
        test_share: of the clusters without a held-out topic, those that are tested.
        seed: of that draw.

    Raises:
        ConfigError: a share outside [0, 1).
    """

    topics: tuple[str, ...]
    styles: tuple[str, ...]
    test_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.test_share < 1:
            raise ConfigError(f"`{self.test_share}` is outside [0, 1)", where="test_share")


@dataclass(frozen=True)
class Split:
    """Instances on two sides.

    Attributes:
        settings: what is held out.
        train: instances to mine pairs from.
        test: instances to measure on, by cell.
        unused: held-out styles of training requests, on neither side.
        clusters: base id to the name of its cluster.
    """

    settings: SplitSettings
    train: tuple[Instance, ...]
    test: Mapping[Cell, tuple[Instance, ...]]
    unused: int
    clusters: Mapping[str, str]

    @property
    def tested(self) -> tuple[Instance, ...]:
        """Test instances of all cells."""
        return tuple(instance for cell in CELLS for instance in self.test[cell])


def split_instances(instances: Sequence[Instance], settings: SplitSettings) -> Split:
    """Divide instances; the same instances, in any order, fall alike.

    Raises:
        DataError: a topic that no instance has, no instance on one side, or a leak.
        ConfigError: a style that no instance has.
    """
    require_topics(settings.topics, frozenset(t for each in instances for t in each.base.topics), "held-out topics")
    styles = {each.style for each in instances}
    for style in settings.styles:
        if style not in styles:
            raise ConfigError(
                f"no instance is in style `{style}`", where="held-out styles", hint=suggest(style, styles)
            )
    clusters = _clusters(instances)
    new_topic = {clusters[each.base.id] for each in instances if set(each.base.topics) & set(settings.topics)}
    drawn = {
        name for name in clusters.values() if group_fraction(f"egida/{name}", seed=settings.seed) < settings.test_share
    }
    train: list[Instance] = []
    test: dict[Cell, list[Instance]] = {cell: [] for cell in CELLS}
    unused = 0
    for each in instances:
        cluster, new_style = clusters[each.base.id], each.style in settings.styles
        if cluster in new_topic or cluster in drawn:
            test[_cell(new_topic=cluster in new_topic, new_style=new_style)].append(each)
        elif new_style:
            unused += 1
        else:
            train.append(each)
    found = Split(settings, tuple(train), {cell: tuple(some) for cell, some in test.items()}, unused, clusters)
    check_leaks(found)
    return found


def check_leaks(split: Split) -> None:
    """Refuse a split in which training has seen what is tested as new.

    Raises:
        DataError: a base request or a cluster on both sides, a held-out style or topic in training, or an empty side.
    """
    train, test = split.train, split.tested
    if not train or not test:
        raise DataError(
            f"{len(train)} instances to train on and {len(test)} to test",
            where="split",
            hint="Hold out other topics, or another share.",
        )
    for what, key in (
        ("base request", _base_id),
        ("cluster of near duplicates", lambda each: split.clusters[each.base.id]),
    ):
        if shared := {key(each) for each in train} & {key(each) for each in test}:
            raise DataError(f"the {what} `{min(shared)}` is on both sides", where="split")
    for each in train:
        if each.style in split.settings.styles:
            raise DataError(f"the held-out style `{each.style}` is in training", where=each.uuid)
        if held := set(each.base.topics) & set(split.settings.topics):
            raise DataError(f"the held-out topic `{min(held)}` is in training", where=each.uuid)


def check_chosen_leaks(train: Sequence[Pair], test: Sequence[Pair]) -> None:
    """Refuse pairs to test on whose preferred answer is one that is trained on.

    For answers that were written; models say some refusals again and again (see ``chosen_overlap``).

    Raises:
        DataError: such a pair; names it.
    """
    if leaked := _shared_chosen(train, test):
        raise DataError(
            "the preferred answer of this pair to test on is that of a training pair, too",
            where=leaked[0].instance.uuid,
            hint="Draw the answers of the two sides from different ones.",
        )


def chosen_overlap(train: Sequence[Pair], test: Sequence[Pair]) -> float | None:
    """Share of the pairs to test on whose preferred answer is one that is trained on; ``None`` without pairs."""
    return len(_shared_chosen(train, test)) / len(test) if test else None


def _shared_chosen(train: Sequence[Pair], test: Sequence[Pair]) -> list[Pair]:
    taught = {prompt_key(pair.chosen) for pair in train}
    return [pair for pair in test if prompt_key(pair.chosen) in taught]


def _base_id(instance: Instance) -> str:
    return instance.base.id


def _clusters(instances: Sequence[Instance]) -> dict[str, str]:
    """Base id to the least key of its cluster's texts, which does not depend on the order of the instances."""
    texts = {each.base.id: each.base.goal.text for each in instances}
    ids = sorted(texts)
    numbers = cluster_texts([texts[base_id] for base_id in ids])
    names: dict[int, str] = {}
    for base_id, number in zip(ids, numbers, strict=True):
        key = prompt_key(texts[base_id])
        names[number] = min(names.get(number, key), key)
    return {base_id: names[number] for base_id, number in zip(ids, numbers, strict=True)}


def _cell(*, new_topic: bool, new_style: bool) -> Cell:
    return CELLS[2 * new_topic + new_style]
