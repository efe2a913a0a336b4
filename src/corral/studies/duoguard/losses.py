"""Claim ``log_sum_exp_vs_bce``: the loss that compares the two sides as a whole, against one category at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from corral.core import weighted
from corral.core.evidence import Claim
from corral.core.metric_inputs import Flags, as_binary
from corral.core.weighted import Statistic
from corral.data.examples import ModerationExample
from corral.guards.duoguard import duoguard_codes
from corral.studies.claims import Compared, claim_of, compare_over_seeds, point_of
from corral.studies.duoguard.rows import HELD_OUT, StudyRows
from corral.studies.duoguard.settings import DuoGuardConfig
from corral.studies.duoguard.trainings import LOSSES, Guards, Loss
from corral.studies.verdict_store import THRESHOLD, Judged

CLAIM: Final = "log_sum_exp_vs_bce"
_Scores = Mapping[Loss, Sequence[Judged]]


def log_sum_exp_vs_bce(guards: Guards, rows: StudyRows, config: DuoGuardConfig) -> Claim:
    """Train both losses on the same rows with the same seeds, and compare at the natural boundary."""
    scores: dict[str, _Scores] = {
        name: {loss: [guards.judge(loss, seed, members) for seed in config.seeds] for loss in LOSSES}
        for name, members in rows.sets.items()
    }
    main = _over_sets(scores, rows, config, "f1")
    return claim_of(
        CLAIM,
        main,
        metric=f"F1 of unsafe where some p is above 0.5, mean over {', '.join(rows.sets)}: log-sum-exp (ours) against "
        f"binary cross entropy (baseline), the same {len(rows.train)} rows and seeds",
        expected="the losses rank alike, but where one category of twelve is violated the log-sum-exp loss puts its "
        "natural boundary at 0.5, and cross entropy, in which absent categories outweigh it, flags too little: the "
        "whole interval of the difference in F1 lies above 0",
        seeds=config.seeds,
        toy=config.toy,
        tried=config.tried.get(CLAIM, ()),
        beside={
            "average precision": _over_sets(scores, rows, config, "ap").to_json(),
            "recall": _over_sets(scores, rows, config, "recall").to_json(),
            "false-positive rate": _over_sets(scores, rows, config, "fpr").to_json(),
            "micro F1 of categories, held-out rows": _micro_f1(scores[HELD_OUT], rows.sets[HELD_OUT], config).to_json(),
            "by set": [
                _row(name, loss, judged, rows.sets[name])
                for name, of_set in scores.items()
                for loss, judged in of_set.items()
            ],
        },
    )


def _statistic(metric: str, rows: Sequence[ModerationExample], judged: Judged) -> Statistic:
    truth = as_binary([row.harmful for row in rows])
    if metric == "ap":
        return weighted.average_precision(truth, judged.scores)
    return weighted.rate(truth, judged.flagged, metric)  # type: ignore[arg-type]


def _over_sets(scores: Mapping[str, _Scores], rows: StudyRows, config: DuoGuardConfig, metric: str) -> Compared:
    """Both losses on the mean over sets, whose rows are resampled together."""
    sizes = [len(rows.sets[name]) for name in scores]

    def of_loss(loss: Loss) -> list[Statistic]:
        by_seed = [
            [_statistic(metric, rows.sets[name], of_set[loss][i]) for name, of_set in scores.items()]
            for i in range(len(config.seeds))
        ]
        return [weighted.mean_of_parts(statistics, sizes) for statistics in by_seed]

    clusters = [row.group for name in scores for row in rows.sets[name]]
    ours, baseline = of_loss("zlpr"), of_loss("bce")
    return compare_over_seeds(ours, baseline, clusters, seed=config.seed, replicates=config.replicates)


def _micro_f1(scores: _Scores, rows: Sequence[ModerationExample], config: DuoGuardConfig) -> Compared:
    """F1 over (row, category) pairs of the rows whose categories are known."""
    known = [i for i, row in enumerate(rows) if row.harmful is False or _codes(row)]
    truth_NK = np.array([[code in _codes(rows[i]) for code in duoguard_codes()] for i in known])

    def statistic(judged: Judged) -> Statistic:
        flagged_NK = np.array(
            [[judged.categories[i].get(code, 1.0) > THRESHOLD for code in duoguard_codes()] for i in known]
        )
        return _pooled_f1(truth_NK, flagged_NK)

    return compare_over_seeds(
        [statistic(judged) for judged in scores["zlpr"]],
        [statistic(judged) for judged in scores["bce"]],
        [rows[i].group for i in known],
        seed=config.seed,
        replicates=config.replicates,
    )


def _pooled_f1(truth_NK: Flags, flagged_NK: Flags) -> Statistic:
    hits_N = (truth_NK & flagged_NK).sum(axis=1)
    sizes_N = truth_NK.sum(axis=1) + flagged_NK.sum(axis=1)

    def statistic(weights_NR: Any) -> Any:
        total = sizes_N @ weights_NR
        return np.where(total > 0, 2 * (hits_N @ weights_NR) / np.maximum(total, 1.0), np.nan)

    return statistic


def _codes(row: ModerationExample) -> frozenset[str]:
    """DuoGuard's categories that the row violates, an attack among them."""
    codes = {code for code, present in row.categories.items() if present and code in duoguard_codes()}
    return frozenset(codes | ({duoguard_codes()[-1]} if row.attack else set()))


def _row(name: str, loss: Loss, judged: Sequence[Judged], rows: Sequence[ModerationExample]) -> dict[str, Any]:
    """Means over seeds of one loss on one set, beside those of flagging everything; undefined where a seed's is."""
    n, truth = len(rows), as_binary([row.harmful for row in rows])
    means = {
        metric: point_of(weighted.mean_of([_statistic(metric, rows, each) for each in judged]), n)
        for metric in ("f1", "precision", "recall", "fpr", "ap")
    }
    flag_all = point_of(weighted.rate(truth, np.ones(n, dtype=np.bool_), "f1"), n)
    shown = {"set": name, "loss": loss, "n": n, **means, "flag-all f1": flag_all}
    return shown | {"floor": float(truth.mean()), "unscored": sum(each.unscored for each in judged)}
