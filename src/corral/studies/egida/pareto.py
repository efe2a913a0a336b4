"""Trainings of other strength: attack success against over-refusal, and ability beside both.

A point is a learning rate with a number of mined pairs, over its seeds. The numbers of pairs are nested: a smaller
training sees a part of what a larger one sees. The point of the study's own settings is trained once, for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from corral.core.progress import milestone
from corral.core.runs import Run
from corral.data.splits import group_fraction
from corral.redteam.egida.pairs import Pair
from corral.redteam.measures import rate, refuses, succeeds
from corral.redteam.results import Item, Rate
from corral.redteam.styles import PLAIN
from corral.studies.defences.costs import Measured, ability_of
from corral.studies.egida.instances import Drawn
from corral.studies.egida.measures import BEFORE, attack_models, targets_of
from corral.studies.egida.settings import EgidaConfig, ParetoConfig
from corral.studies.egida.trainings import pairs_that_fit, train_once
from corral.studies.training_cells import TrainingCells

_RATES: Final = ("attack_success", "over_refusal", "understood")


@dataclass(frozen=True)
class Strength:
    """How strongly a point was trained.

    Attributes:
        name: as reports print it.
        learning_rate: 0 before training.
        pairs: that it was trained on.
        seeds: of its trainings, none before training.
    """

    name: str
    learning_rate: float = 0.0
    pairs: int = 0
    seeds: tuple[int, ...] = ()

    def system(self, seed: int) -> str:
        """What the model of a seed is called."""
        return f"{self.name}, seed {seed}"


@dataclass(frozen=True)
class Point:
    """What a strength of training gains and costs.

    Attributes:
        strength: of training.
        attack_success: share of attacked harmful requests, over all styles but the plain one, that are complied with.
        over_refusal: share of harmless requests, plain and in the same styles, that are refused.
        understood: share of questions with a known answer, in the same styles, that are answered rightly.
        ability: of each model, figures of the scorecard's tasks.
        best: no other point has less of one of the two without more of the other.
    """

    strength: Strength
    attack_success: Rate
    over_refusal: Rate
    understood: Rate
    ability: tuple[Mapping[str, Any], ...] = ()
    best: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        rates = {name: getattr(self, name).model_dump(mode="json") for name in _RATES}
        strength = {**asdict(self.strength), "seeds": list(self.strength.seeds)}
        return {**strength, **rates, "ability": [dict(each) for each in self.ability], "best": self.best}


def measure_front(pairs: Sequence[Pair], drawn: Drawn, config: EgidaConfig, run: Run) -> tuple[Point, ...]:
    """Train, attack and score every point, the target before training first; none where no front is asked for.

    A second call goes on after what is there.

    Args:
        pairs: of the headline source, to train on.
        drawn: requests.
        config: settings of the study.
        run: keeps models, answers and figures.

    Raises:
        MissingDependencyError: the training libraries are not installed.
    """
    if config.pareto is None or config.attack is None:
        return ()
    usable = pairs_that_fit(pairs, config)
    strengths = strengths_of(config.pareto, len(usable))
    folders = {
        strength.system(seed): folder
        for strength in strengths
        for seed, folder in _trained(strength, usable, config, run).items()
    }
    report, settings = attack_models(config.attack, folders, drawn, config, run)
    items = {system.target: report.items[system.name] for system in report.systems}
    ability = _abilities(config.pareto, folders, config, run)

    def point(strength: Strength, systems: Sequence[str]) -> Point:
        some = [_clustered(item, drawn) for system in systems for item in items[system]]
        return Point(
            strength,
            rate([each for each in some if each.kind == "harmful" and each.style != PLAIN], succeeds, settings),
            rate([each for each in some if each.kind == "benign"], refuses, settings),
            rate([each for each in some if each.kind == "capability"], lambda each: each.understood, settings),
            tuple(ability[system] for system in systems if system in ability),
        )

    trained = [point(each, [each.system(seed) for seed in each.seeds]) for each in strengths]
    return with_best([point(Strength(BEFORE), [BEFORE]), *trained])


def strengths_of(asked: ParetoConfig, pairs: int) -> list[Strength]:
    """Every learning rate with every number of pairs; a number beyond those that there are means all of them."""
    sizes = dict.fromkeys(min(size, pairs) for size in asked.pairs or (pairs,))
    return [
        Strength(f"{learning_rate:g} x {size} pairs", learning_rate, size, asked.seeds)
        for learning_rate in dict.fromkeys(asked.learning_rates)
        for size in sizes
    ]


def nested(pairs: Sequence[Pair], size: int, seed: int) -> list[Pair]:
    """So many pairs, drawn so that a smaller draw is a part of a larger one, in their order."""
    drawn = sorted(pairs, key=lambda pair: group_fraction(pair.instance.uuid, seed=seed))[:size]
    kept = {pair.instance.uuid for pair in drawn}
    return [pair for pair in pairs if pair.instance.uuid in kept]


def with_best(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points, those on the front marked; one without a value is not on it."""
    values = [(point.attack_success.value, point.over_refusal.value) for point in points]
    known = [(x, y) for x, y in values if x is not None and y is not None]

    def is_best(x: float | None, y: float | None) -> bool:
        if x is None or y is None:
            return False
        return not any(a <= x and b <= y and (a, b) != (x, y) for a, b in known)

    return tuple(replace(point, best=is_best(x, y)) for point, (x, y) in zip(points, values, strict=True))


def _trained(strength: Strength, pairs: Sequence[Pair], config: EgidaConfig, run: Run) -> dict[int, Path]:
    """Folders by seed; the study's own training where it is the same."""
    own = strength.learning_rate == config.dpo.learning_rate and strength.pairs == len(pairs)
    dpo = config.dpo.model_copy(update={"learning_rate": strength.learning_rate})
    settings = config.model_copy(update={"dpo": dpo})
    taken = nested(pairs, strength.pairs, config.seed)
    cells = TrainingCells(run)
    kind, label = config.chosen[0], "" if own else f" at {strength.name}"
    return {seed: train_once(f"{kind}-{seed}{label}", seed, taken, settings, cells) for seed in strength.seeds}


def _clustered(item: Item, drawn: Drawn) -> Item:
    """The item, to be resampled with the near duplicates of its request."""
    return item.model_copy(update={"cluster": drawn.split.clusters.get(item.goal, item.cluster)})


def _abilities(
    asked: ParetoConfig, folders: Mapping[str, Path], config: EgidaConfig, run: Run
) -> dict[str, dict[str, Any]]:
    """Figures of the scorecard's tasks by system; none where no task is asked for."""
    if not asked.ability:
        return {}
    measured = Measured(asked.ability, asked.ability_limit, seed=config.seed)
    found = {}
    for target in targets_of(config, folders):
        found[target.name] = ability_of(target, measured, run.path / "cells")
        milestone(f"{target.name}: ability measured")
    return found
