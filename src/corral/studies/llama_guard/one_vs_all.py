"""Claim ``category_one_vs_all``: asked about one category alone, the guard tells it from everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from corral.core import weighted
from corral.core.metric_inputs import Floats
from corral.core.metrics import positive_rate
from corral.data.examples import ModerationExample
from corral.evals.tasks.categories import (
    NOT_SUPPORTED,
    CategoryScores,
    measure_one_vs_all,
    measure_one_vs_benign,
    score_categories,
)
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.studies.claims import Compared, claim_of
from corral.studies.llama_guard.experiment import Experiment, Finding
from corral.studies.llama_guard.settings import AUGMENTED
from corral.studies.llama_guard.trainings import Training

CLAIM: Final = "category_one_vs_all"


def category_one_vs_all(experiment: Experiment) -> Finding:
    """Ask the augmented guards about each category alone, on the test half of the target."""
    config = experiment.config
    trainings = experiment.arms(AUGMENTED)

    def judge(policy: PolicyPrompt, rows: Sequence[ModerationExample]) -> list[Floats]:
        return [experiment.store.judge(training, policy, rows).scores for training in trainings]

    asked = score_categories(experiment.rows.target.test, experiment.rows.policy, config.categories.codes, judge)
    table = [_table_row(experiment, each, trainings) for each in asked]
    compared = _above_floor(experiment, [each for each in asked if each.supported], len(trainings))
    claim = claim_of(
        CLAIM + experiment.suffix,
        compared,
        metric=(
            "mean over categories of 1-vs-all average precision, each category alone in the prompt, on the test half "
            f"of {config.ladder.source} (unknown labels left out); baseline: its floor, the positive rate"
        ),
        expected="the mean of average precision minus floor is above zero, with an interval",
        seeds=config.seeds,
        toy=config.toy,
        tried=experiment.tried.get(CLAIM, ()),
        beside={"categories": table},
    )
    return Finding(claim, {"categories": table})


def _above_floor(experiment: Experiment, asked: Sequence[CategoryScores], seeds: int) -> Compared:
    """Average precision against floor, mean over categories; the rows of all categories stand one after another."""
    sizes = [len(each.rows) for each in asked]
    ours = [
        weighted.mean_of_parts([weighted.average_precision(each.labels, each.scores[seed]) for each in asked], sizes)
        for seed in range(seeds)
    ]
    floor = weighted.mean_of_parts([weighted.mean(each.labels) for each in asked], sizes)
    return experiment.compare(ours, [floor], [row for each in asked for row in each.rows])


def _table_row(experiment: Experiment, asked: CategoryScores, trainings: Sequence[Training]) -> dict[str, Any]:
    if not asked.supported:
        return {"code": asked.code, "state": NOT_SUPPORTED}
    config = experiment.config
    against_all = measure_one_vs_all(asked, seed=config.seed, replicates=config.replicates)
    against_benign = measure_one_vs_benign(asked, seed=config.seed, replicates=config.replicates)
    decoded = CategoryScores(asked.code, asked.name, asked.rows, tuple(_decoded(experiment, asked, trainings)))
    return {
        "code": asked.code,
        "name": asked.name,
        "unknown": len(experiment.rows.target.test) - len(asked.rows),
        "one_vs_all": against_all.to_json(),
        "one_vs_benign": against_benign.to_json(),
        "decoded_under_the_whole_policy": measure_one_vs_all(
            decoded, seed=config.seed, replicates=config.replicates
        ).to_json(),
        "floor": positive_rate(asked.labels),
    }


def _decoded(experiment: Experiment, asked: CategoryScores, trainings: Sequence[Training]) -> list[Floats]:
    """Scores of the category by the codes that the guards write under the whole policy."""
    policy, rows = experiment.rows.policy, asked.rows
    return [experiment.store.judge(each, policy, rows, decode=True).category_scores(asked.code) for each in trainings]
