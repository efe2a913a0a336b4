"""Claim ``augmentation_makes_policy_matter``: with the augmentation the guard reads its policy, without it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from corral.core import weighted
from corral.core.metric_inputs import Floats, as_binary
from corral.core.weighted import Statistic
from corral.data.examples import ModerationExample
from corral.evals.tasks.policy_sensitivity import PolicyScores, judge_policies
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.studies.claims import Compared, claim_of
from corral.studies.llama_guard.experiment import Experiment, Finding
from corral.studies.llama_guard.settings import AUGMENTED, PLAIN
from corral.studies.llama_guard.trainings import Training
from corral.studies.verdict_store import Judged

CLAIM: Final = "augmentation_makes_policy_matter"
_ARMS: Final = (AUGMENTED, PLAIN)


def policy_matters(experiment: Experiment) -> Finding:
    """Measure both arms on held-out rows under whole, reduced and reordered policies."""
    rows = experiment.rows.held_out
    harmful = [row for row in rows if row.harmful]
    found = {arm: [_scores(experiment, training, harmful) for training in experiment.arms(arm)] for arm in _ARMS}
    whole = {arm: [_whole(experiment, training, rows) for training in experiment.arms(arm)] for arm in _ARMS}
    truth = as_binary([row.harmful for row in rows])

    def compared(of: Callable[[PolicyScores], Statistic]) -> Compared:
        ours, plain = ([of(each) for each in found[arm]] for arm in _ARMS)
        return experiment.compare(ours, plain, harmful)

    flips = compared(PolicyScores.flip_rate)
    drop = compared(PolicyScores.mean_drop)
    right = {arm: [weighted.rate(truth, each.flagged, "accuracy") for each in whole[arm]] for arm in _ARMS}
    accuracy = experiment.compare(right[AUGMENTED], right[PLAIN], rows)
    tables: dict[str, Any] = {
        "flip_rate": flips.to_json(),
        "mean_drop_of_p_unsafe": drop.to_json(),
        "accuracy_on_the_whole_policy": accuracy.to_json(),
        "named_under_the_whole_policy": compared(PolicyScores.named_by_whole).to_json(),
        "named_under_reordered_policies": compared(PolicyScores.named_by_reordered).to_json(),
        "rows": {"harmful": len(harmful), "benign": len(rows) - len(harmful)},
        "unscored": {arm: [each.unscored for each in whole[arm]] for arm in _ARMS},
    }
    claim = claim_of(
        CLAIM + experiment.suffix,
        flips,
        metric=(
            "policy-sensitivity score: share of flagged held-out harmful rows that are no longer flagged once the "
            "violated category is removed from the policy; trained with the augmentation (ours) and without (baseline)"
        ),
        expected="the difference is above zero, and so is that of the mean drop of p_unsafe, with intervals",
        also=drop.above_zero,
        seeds=experiment.config.seeds,
        toy=experiment.config.toy,
        tried=experiment.tried.get(CLAIM, ()),
        beside={key: tables[key] for key in tables if key not in ("flip_rate", "rows", "unscored")},
    )
    return Finding(claim, tables)


def _whole(experiment: Experiment, training: Training, rows: Sequence[ModerationExample]) -> Judged:
    return experiment.store.judge(training, experiment.rows.policy, rows, decode=True)


def _scores(experiment: Experiment, training: Training, harmful: Sequence[ModerationExample]) -> PolicyScores:
    """What one guard says under every policy; its codes are read where the whole set of categories is there."""
    whole = len(experiment.rows.policy.categories)

    def judge(policy: PolicyPrompt, rows: Sequence[ModerationExample]) -> tuple[Floats, Sequence[frozenset[str]]]:
        judged = experiment.store.judge(training, policy, rows, decode=len(policy.categories) == whole)
        return judged.scores, judged.codes

    return judge_policies(
        harmful, experiment.rows.policy, judge, orders=experiment.config.shuffles, seed=experiment.config.seed
    )
