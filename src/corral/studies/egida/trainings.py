"""Mining pairs on both sides of the split, and preference training on those of the training side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from corral.core.errors import DataError
from corral.core.files import sha256_json
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.models.engines.base import GenerationSettings
from corral.redteam.attempts import Target
from corral.redteam.egida.chosen import ChosenKind, ChosenSource, GoldAnswers, OwnAnswers, PoolAnswers, Side
from corral.redteam.egida.costs import Prices
from corral.redteam.egida.expand import Instance
from corral.redteam.egida.mining import MiningSettings, mine_pairs
from corral.redteam.egida.pairs import Mined, Pair
from corral.redteam.egida.split import check_chosen_leaks, chosen_overlap
from corral.redteam.judges import Judge
from corral.redteam.loading import open_engine, open_judges
from corral.redteam.store import Store
from corral.studies.egida.instances import Drawn
from corral.studies.egida.settings import STAND_IN, EgidaConfig
from corral.studies.egida.stand_ins import StandInJudge
from corral.studies.trained_models import keep_trained, open_trained, revision_of
from corral.studies.training import training_module
from corral.studies.training_cells import TrainingCells
from corral.train.fine_tuning_settings import DpoConfig

LEAST_PAIRS: Final = 2
_LEAST_ROOM: Final = 8


@dataclass(frozen=True)
class MinedSides:
    """Pairs of one chosen source.

    Attributes:
        train: to train on.
        test: to measure on.
    """

    train: Mined
    test: Mined

    @property
    def enough(self) -> bool:
        """Whether there is something to train on and to measure on."""
        return min(len(self.train.pairs), len(self.test.pairs)) >= LEAST_PAIRS

    @property
    def chosen_overlap(self) -> float | None:
        """Share of the pairs to measure on whose preferred answer is one that is trained on."""
        return chosen_overlap(self.train.pairs, self.test.pairs)


def mine_sides(config: EgidaConfig, drawn: Drawn, run: Run) -> dict[ChosenKind, MinedSides]:
    """Mine both sides for every chosen source; the target answers each instance once, whatever the source.

    Raises:
        DataError: the headline source gives too few pairs, or a written answer is preferred on both sides.
    """
    cells = run.path / "cells"
    found: dict[ChosenKind, MinedSides] = {}
    with ExitStack() as open_ones:
        judge = _judge(config, open_ones)
        engine = open_trained(config.target, None, name=config.target, dtype=config.dtype)
        target = Target(engine, "target", revision_of(config.target, None, config.dtype))
        for kind in config.chosen:
            sources = _sources(kind, config, cells, open_ones)
            sides = []
            for side, instances, budget in _sides(config, drawn):
                folder = cells / "pairs" / kind / side
                settings = mining_settings(config, budget)
                sides.append(
                    mine_pairs(
                        instances,
                        target,
                        judge,
                        sources[side],
                        folder=folder,
                        settings=settings,
                        journals=cells / "journals",
                    )
                )
            found[kind] = MinedSides(*sides)
            if kind == "gold":
                check_chosen_leaks(found[kind].train.pairs, found[kind].test.pairs)
    headline = found[config.chosen[0]]
    if not headline.enough:
        raise DataError(
            f"{len(headline.train.pairs)} pairs to train on and {len(headline.test.pairs)} to test were found",
            where=f"chosen `{config.chosen[0]}`",
            hint="Look at cells/pairs/*/*/yields.json; take more requests, samples or styles.",
        )
    return found


def mining_settings(config: EgidaConfig, budget: int) -> MiningSettings:
    """How pairs are mined."""
    mining = config.mining
    return MiningSettings(
        budget=budget,
        samples=mining.samples,
        generation=GenerationSettings(
            max_new_tokens=mining.max_new_tokens, temperature=mining.temperature, seed=config.seed
        ),
        batch_size=mining.batch_size,
        prices=Prices(mining.hour_usd, mining.million_judged_usd, mining.stop_after_usd),
        seed=config.seed,
    )


def train_pairs(
    config: EgidaConfig, sides: Mapping[ChosenKind, MinedSides], run: Run
) -> dict[ChosenKind, dict[int, Path]]:
    """Preference training on the pairs of every source that has enough, for every seed; folders of what came out.

    Raises:
        MissingDependencyError: the training libraries are not installed.
    """
    cells = TrainingCells(run)
    found: dict[ChosenKind, dict[int, Path]] = {}
    for kind, mined in sides.items():
        if not mined.enough:
            milestone(f"chosen `{kind}` gives too few pairs to train on")
            continue
        pairs = pairs_that_fit(mined.train.pairs, config)
        for seed in config.seeds:
            found.setdefault(kind, {})[seed] = train_once(f"{kind}-{seed}", seed, pairs, config, cells)
    return found


def pairs_that_fit(pairs: Sequence[Pair], config: EgidaConfig) -> list[Pair]:
    """Pairs whose prompt leaves room for answers: a prompt is never cut, for the request may stand at its end."""
    chat = training_module("fine_tuning").load_chat(config.target)
    kept = [
        pair
        for pair in pairs
        if len(chat.encode_prompt(pair.instance.prompt.shown)) + _LEAST_ROOM <= config.dpo.max_tokens
    ]
    if len(kept) < len(pairs):
        milestone(
            f"{len(pairs) - len(kept)} pairs are left out: the prompt does not fit {config.dpo.max_tokens} tokens"
        )
    return kept


def train_once(name: str, seed: int, pairs: Sequence[Pair], config: EgidaConfig, cells: TrainingCells) -> Path:
    """The folder of one training of that name, done unless it is there."""
    settings = DpoConfig.model_validate({**config.dpo.model_dump(), "seed": seed})
    key = {
        "config": settings.model_dump(mode="json"),
        "target": config.target,
        "pairs": sha256_json([[pair.instance.uuid, pair.chosen, pair.rejected] for pair in pairs]),
    }

    def train(checkpoints: Path, model: Path) -> int:
        rows = [pair.example() for pair in pairs]
        keep_trained(training_module("dpo").train_dpo(rows, config.target, settings, checkpoints), config.target, model)
        return len(rows)

    return cells.model(name, key, train)


def _sides(config: EgidaConfig, drawn: Drawn) -> list[tuple[Side, Sequence[Instance], int]]:
    mining, split = config.mining, drawn.split
    return [("train", split.train, mining.pairs), ("test", split.tested, mining.test_pairs)]


def _judge(config: EgidaConfig, open_ones: ExitStack) -> Judge:
    if config.mining.judge == STAND_IN:
        return StandInJudge()
    return open_ones.enter_context(open_judges([config.mining.judge], guard_settings=config.guard_settings))[0]


def _sources(kind: ChosenKind, config: EgidaConfig, cells: Path, open_ones: ExitStack) -> Mapping[Side, ChosenSource]:
    """Where the preferred side is from; written answers are others on each side of the split."""
    if kind == "gold":
        return {side: GoldAnswers(seed=config.seed, side=side) for side in get_args(Side)}
    return dict.fromkeys(get_args(Side), _model_source(kind, config, cells, open_ones))


def _model_source(kind: ChosenKind, config: EgidaConfig, cells: Path, open_ones: ExitStack) -> ChosenSource:
    if kind == "self_safe":
        return OwnAnswers()
    opened = [(name, open_ones.enter_context(open_engine(name, dtype=config.dtype))) for name in config.mining.pool]
    pool = [Target(engine, name, revision) for name, (engine, revision) in opened]
    generation = GenerationSettings(max_new_tokens=config.mining.max_new_tokens)
    return PoolAnswers(pool, Store(cells / "journals", config.mining.batch_size), generation)
