"""Claim ``lora_json_guard``: a LoRA of rank 8 on query and value teaches the format, and a better guard than none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from corral.core import weighted
from corral.core.evidence import Claim
from corral.core.metric_inputs import as_binary
from corral.core.metrics import positive_rate
from corral.core.stats import wilson
from corral.data.examples import ModerationExample, rows_hash
from corral.evals.baselines import train_bag_of_words
from corral.studies.claims import Compared, claim_of, compare_over_seeds, point_of
from corral.studies.cultureguard.rows import StudyRows, named_codes
from corral.studies.cultureguard.settings import CultureGuardConfig
from corral.studies.cultureguard.trainings import Guards, settings_of
from corral.studies.json_guards import JsonTraining
from corral.studies.verdict_store import Judged

CLAIM: Final = "lora_json_guard"
LEAST_PARSED: Final = 0.95
"""Share of held-out rows whose written answer must be readable, for every seed."""
LEAST_RIGHT: Final = 0.95
"""Share of rows learned by heart whose verdict must be right."""


def guard_of(config: CultureGuardConfig, rows: StudyRows, seed: int) -> JsonTraining:
    """The guard of a seed."""
    return JsonTraining(f"lora-{seed}", rows.train, settings_of(config, seed))


def lora_json_guard(guards: Guards, rows: StudyRows, config: CultureGuardConfig) -> Claim:
    """Train a guard a seed and one on a few rows alone; compare with flagging everything, the floor and words."""
    by_heart = _by_heart(guards, rows, config)
    trained = [guard_of(config, rows, seed) for seed in config.seeds]
    scored = [guards.judge(each, rows.held_out, decode="score") for each in trained]
    written = [guards.judge(each, rows.held_out, decode="generate") for each in trained]
    against = _Comparisons(rows.held_out, config)
    parsed = [float(each.answered.mean()) for each in written]
    f1, floor = against.flag_all(scored), against.floor(scored)
    learned = by_heart["valid"] == by_heart["n"] and by_heart["right"] >= LEAST_RIGHT * by_heart["n"]
    training = config.training
    return claim_of(
        CLAIM,
        f1,
        metric=f"F1 of unsafe at 0.5 on {len(rows.held_out)} held-out rows: LoRA of rank {training.rank} on "
        f"{', '.join(training.targets)}, trained on {len(rows.train)} rows, against flagging all",
        expected=f"every one of {by_heart['n']} rows learned by heart is answered with valid JSON and "
        f"{LEAST_RIGHT:.0%} with the right verdict; on held-out rows at least {LEAST_PARSED:.0%} of the written "
        "answers can be read for every seed, and F1 is above that of flagging all and average precision above the "
        "floor, each by an interval",
        seeds=config.seeds,
        toy=config.toy,
        tried=config.tried.get(CLAIM, ()),
        also=learned and min(parsed) >= LEAST_PARSED and floor.above_zero,
        beside={
            "average precision above the floor": floor.to_json(),
            "average precision above a bag of words trained on the same rows": against.words(
                scored, _bag_of_words(guards, rows, config)
            ).to_json(),
            "learned by heart": by_heart,
            "held out": [_row(config.seeds[i], rows.held_out, scored[i], written[i]) for i in range(len(config.seeds))],
            "untrained": _untrained(guards, rows, config),
            "floor": positive_rate(as_binary([row.harmful for row in rows.held_out])),
        },
    )


class _Comparisons:
    """Guards of all seeds on the held-out rows, against one baseline."""

    def __init__(self, rows: Sequence[ModerationExample], config: CultureGuardConfig) -> None:
        self._truth = as_binary([row.harmful for row in rows])
        self._clusters = [row.group for row in rows]
        self._config = config

    def flag_all(self, judged: Sequence[Judged]) -> Compared:
        everything = np.ones(len(self._truth), dtype=np.bool_)
        ours = [weighted.rate(self._truth, each.flagged, "f1") for each in judged]
        return self._compare(ours, weighted.rate(self._truth, everything, "f1"))

    def floor(self, judged: Sequence[Judged]) -> Compared:
        return self._compare(self._ranked(judged), weighted.mean(self._truth))

    def words(self, judged: Sequence[Judged], baseline: Judged) -> Compared:
        return self._compare(self._ranked(judged), self._ranked([baseline])[0])

    def _ranked(self, judged: Sequence[Judged]) -> list[weighted.Statistic]:
        return [weighted.average_precision(self._truth, each.scores) for each in judged]

    def _compare(self, ours: Sequence[weighted.Statistic], baseline: weighted.Statistic) -> Compared:
        seed, replicates = self._config.seed, self._config.replicates
        return compare_over_seeds(ours, [baseline], self._clusters, seed=seed, replicates=replicates)


def _by_heart(guards: Guards, rows: StudyRows, config: CultureGuardConfig) -> dict[str, Any]:
    """What a guard trained on a few rows writes about them."""
    changes = {"epochs": config.overfit.epochs, "learning_rate": config.overfit.learning_rate}
    settings = settings_of(config, config.seeds[0], **changes)
    judged = guards.judge(JsonTraining("by-heart", rows.overfit, settings), rows.overfit, decode="generate")
    truth = np.array([bool(row.harmful) for row in rows.overfit])
    categories = [named_codes(row, rows.categories) for row in rows.overfit]
    right = judged.answered & (judged.flagged == truth)
    whole = [ok and codes == named for ok, codes, named in zip(right, judged.codes, categories, strict=True)]
    return {"n": len(truth), "valid": int(judged.answered.sum()), "right": int(right.sum()), "whole": int(sum(whole))}


def _row(seed: int, rows: Sequence[ModerationExample], scored: Judged, written: Judged) -> dict[str, Any]:
    """One seed's figures in a table; parsing with Wilson's interval."""
    n, truth = len(rows), as_binary([row.harmful for row in rows])
    read = wilson(int(written.answered.sum()), n)

    def rate(judged: Judged, name: weighted.Rate) -> float | None:
        return point_of(weighted.rate(truth, judged.flagged, name), n)

    return {
        "seed": seed,
        "n": n,
        "parsed": float(written.answered.mean()),
        "parsed_ci95": None if read.ci95 is None else list(read.ci95),
        "f1": rate(scored, "f1"),
        "f1 as written": rate(written, "f1"),
        "precision": rate(scored, "precision"),
        "recall": rate(scored, "recall"),
        "fpr": rate(scored, "fpr"),
        "ap": point_of(weighted.average_precision(truth, scored.scores), n),
        "unscored": scored.unscored,
    }


def _untrained(guards: Guards, rows: StudyRows, config: CultureGuardConfig) -> dict[str, Any]:
    some = rows.held_out[: config.untrained_rows]
    judged = guards.judge(None, some, decode="generate")
    return {"n": len(some), "parsed": float(judged.answered.mean())}


def _bag_of_words(guards: Guards, rows: StudyRows, config: CultureGuardConfig) -> Judged:
    key = {"baseline": "bag of words", "rows": rows_hash(rows.train), "seed": config.seed}
    return guards.store.judge_by(
        "bag_of_words", key, rows.held_out, lambda: train_bag_of_words(rows.train, seed=config.seed)
    )
