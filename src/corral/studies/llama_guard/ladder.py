"""Claim ``adaptation_ladder``: what prompts and what training on the target do for the target.

Models that are fine-tuned on the target are made to be measured and then removed: the target is for evaluation only,
and no weights that saw it are shown or shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from corral.core.metric_inputs import Floats
from corral.data.examples import ModerationExample
from corral.evals.tasks.adaptation import Rung, climb, ladder_statistic, measure_ladder
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.studies.claims import claim_of
from corral.studies.llama_guard.experiment import Experiment, Finding
from corral.studies.llama_guard.settings import AUGMENTED

CLAIM: Final = "adaptation_ladder"


def adaptation_ladder(experiment: Experiment) -> Finding:
    """Climb the ladder with the augmented guard of every seed."""
    config, target = experiment.config, experiment.rows.target
    scores = climb(
        target,
        experiment.rows.policy,
        lambda rung, policy, rows: _judge(experiment, rung, policy, rows),
        shares=config.ladder.shares,
        seed=config.seed,
    )
    figures = measure_ladder(target, scores, seed=config.seed, replicates=config.replicates)
    statistics = {rung: [ladder_statistic(target, [each]) for each in by_seed] for rung, by_seed in scores.items()}
    most, least = Rung("fine-tune", config.ladder.shares[-1]), Rung("fine-tune", config.ladder.shares[0])
    above_none = experiment.compare(statistics[most], statistics[Rung("none")], target.test)
    above_least = experiment.compare(statistics[most], statistics[least], target.test)
    table = [figure.to_json() for figure in figures]
    claim = claim_of(
        CLAIM + experiment.suffix,
        above_none,
        metric=(
            f"average precision on the test half of {config.ladder.source}: fine-tuned on the whole training half "
            f"({len(target.train)} rows) against the guard under its own policy"
        ),
        expected=(
            f"{most.name} is above none, and above {least.name}, with paired intervals; weights that were fine-tuned "
            "are for measurement only and are not shipped"
        ),
        also=least == most or above_least.above_zero,
        seeds=config.seeds,
        toy=config.toy,
        tried=experiment.tried.get(CLAIM, ()),
        beside={"ladder": table, "above_smallest_share": above_least.to_json()},
    )
    return Finding(claim, {"ladder": table, "above_smallest_share": above_least.to_json()})


def _judge(
    experiment: Experiment, rung: Rung, policy: PolicyPrompt, rows: Sequence[ModerationExample]
) -> Sequence[Floats]:
    """Scores of the test half, one array a seed; a fine-tuned model is removed once it is measured."""
    test = experiment.rows.target.test
    scores = []
    for seed in experiment.config.seeds:
        if not rows:
            decode = rung.protocol == "none"  # the codes are read beside, for the claim about categories
            judged = experiment.store.judge(experiment.arm(AUGMENTED, seed), policy, test, decode=decode)
        else:
            training = experiment.fine_tuned(seed, rows, _short_name(rung))
            judged = experiment.store.judge(training, policy, test)
            experiment.models.discard(training)
        scores.append(judged.scores)
    return scores


def _short_name(rung: Rung) -> str:
    """As part of a training's name: ``fine-tune-10``."""
    return f"{rung.protocol}-{round(100 * rung.share)}"
