"""Claim ``small_training_beats_baselines``: against the floor, against flagging all, and against bags of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from corral.core import weighted
from corral.core.files import sha256_json
from corral.core.metric_inputs import Floats, Labels, as_binary
from corral.core.metrics import expected_random_ap, positive_rate
from corral.core.weighted import Statistic
from corral.data.examples import ModerationExample, example_to_json
from corral.evals.baselines import train_bag_of_words
from corral.guards.llama_guard.guard import THRESHOLD
from corral.studies.claims import Compared, claim_of
from corral.studies.llama_guard.experiment import Experiment, Finding
from corral.studies.llama_guard.settings import AUGMENTED
from corral.studies.verdict_store import Judged

CLAIM: Final = "small_training_beats_baselines"


def small_training_beats_baselines(experiment: Experiment) -> Finding:
    """Compare the augmented guards with baselines on every set, and on the mean over sets."""
    sets = [_MeasuredSet(experiment, name, rows) for name, rows in experiment.rows.sets.items()]
    by_set: dict[str, Any] = {each.name: each.table() for each in sets}
    against = {name: _over_sets(experiment, sets, name) for name in ("bag_of_words", "floor", "flag_all")}
    claim = claim_of(
        CLAIM + experiment.suffix,
        against["bag_of_words"],
        metric=(
            f"average precision, mean over {', '.join(by_set)}: the guard against a bag of words trained on the very "
            f"same {len(experiment.rows.train)} rows"
        ),
        expected=(
            "the difference to the bag of words, the difference to the floor, and that of F1 at 0.5 to F1 of flagging "
            "all are above zero, each with an interval"
        ),
        also=against["floor"].above_zero and against["flag_all"].above_zero,
        seeds=experiment.config.seeds,
        toy=experiment.config.toy,
        tried=experiment.tried.get(CLAIM, ()),
        beside={
            "average_precision_above_floor": against["floor"].to_json(),
            "f1_above_flag_all": against["flag_all"].to_json(),
            "sets": by_set,
        },
    )
    return Finding(claim, {"sets": by_set, **{name: found.to_json() for name, found in against.items()}})


class _MeasuredSet:
    """One set as the guards of every seed and the bag of words score it."""

    def __init__(self, experiment: Experiment, name: str, rows: Sequence[ModerationExample]) -> None:
        self._experiment = experiment
        self.name = name
        self.rows = rows
        self.truth: Labels = as_binary([row.harmful for row in rows])
        policy = experiment.rows.policy
        decode = rows is experiment.rows.target.test  # scored so by the other claims: no row is judged twice
        self._ours = [experiment.store.judge(each, policy, rows, decode=decode) for each in experiment.arms(AUGMENTED)]
        self._words = _bag_of_words(experiment, rows)

    def statistics(self, against: str) -> tuple[list[Statistic], Statistic]:
        """The figure of each seed, and that of the baseline."""
        if against == "flag_all":
            everything = self.truth >= 0
            ours = [weighted.rate(self.truth, each.flagged, "f1") for each in self._ours]
            return ours, weighted.rate(self.truth, everything, "f1")
        ranked = [self._ranked(each.scores) for each in self._ours]
        return ranked, self._ranked(self._words.scores) if against == "bag_of_words" else weighted.mean(self.truth)

    def table(self) -> dict[str, Any]:
        """Every figure of the set."""
        differences = {
            against: self._experiment.compare(ours, [theirs], self.rows)
            for against in ("bag_of_words", "floor", "flag_all")
            for ours, theirs in [self.statistics(against)]
        }
        positives = int(self.truth.sum())
        return {
            "n": len(self.rows),
            "positives": positives,
            "floor": positive_rate(self.truth),
            "expected_random_ap": expected_random_ap(positives, len(self.rows)),
            "unscored": [each.unscored for each in self._ours],
            "false_positive_rate_at_0.5": [_rate(each.flagged[self.truth == 0]) for each in self._ours],
            "bag_of_words_false_positive_rate_at_0.5": _rate(self._words.scores[self.truth == 0] >= THRESHOLD),
            **{f"against_{name}": found.to_json() for name, found in differences.items()},
        }

    def _ranked(self, scores: Floats) -> Statistic:
        return weighted.average_precision(self.truth, scores)


def _over_sets(experiment: Experiment, sets: Sequence[_MeasuredSet], against: str) -> Compared:
    """The comparison on the mean over sets, whose prompts are resampled together."""
    sizes = [len(each.rows) for each in sets]
    pairs = [each.statistics(against) for each in sets]

    seeds = range(len(experiment.config.seeds))
    ours = [weighted.mean_of_parts([of_set[seed] for of_set, _ in pairs], sizes) for seed in seeds]
    theirs = weighted.mean_of_parts([baseline for _, baseline in pairs], sizes)
    return experiment.compare(ours, [theirs], [row for each in sets for row in each.rows])


def _bag_of_words(experiment: Experiment, rows: Sequence[ModerationExample]) -> Judged:
    train, seed = experiment.rows.train, experiment.config.seed
    key = {"baseline": "bag of words", "rows": sha256_json([example_to_json(row) for row in train]), "seed": seed}
    return experiment.store.judge_by(
        f"bag_of_words{experiment.suffix}", key, rows, lambda: train_bag_of_words(train, seed=seed)
    )


def _rate(flags: Any) -> float | None:
    return float(flags.mean()) if len(flags) else None
