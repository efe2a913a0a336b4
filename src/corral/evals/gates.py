"""Does a guard beat a baseline? Paired differences on the same rows and the same resamples."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, Literal

from corral.core.errors import MetricError
from corral.core.stats import REPLICATES, mcnemar_exact, paired_cluster_bootstrap
from corral.evals.measures import point, statistic
from corral.evals.results import Figure, GateRow, GateTable
from corral.evals.scored import THRESHOLD, ScoredSet
from corral.evals.tasks.scoring import ScoredGuard

GateMetric = Literal["ap", "auroc", "f1"]
GATE_METRICS: Final[tuple[GateMetric, ...]] = ("ap", "auroc", "f1")


def compare(
    guard: ScoredGuard,
    baseline: ScoredGuard,
    *,
    sets: Collection[str] | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> GateTable:
    """Differences guard - baseline of average precision, AUROC and F1 on every mixed set that both have.

    Args:
        guard: its scores.
        baseline: the baseline's scores.
        sets: which sets; all by default.
        seed: of the bootstrap.
        replicates: resamples a difference.

    Raises:
        MetricError: the two were scored on different rows of a set.
    """
    shared = [name for name in guard.sets if name in baseline.sets and (sets is None or name in sets)]
    rows = [
        row
        for name in shared
        if guard.sets[name].eval_set.kind == "mixed"
        for row in _rows(guard.sets[name], baseline.sets[name], seed, replicates)
    ]
    return GateTable(
        guard=guard.name,
        guard_revision=guard.revision,
        baseline=baseline.name,
        baseline_revision=baseline.revision,
        rows=tuple(rows),
    )


def _rows(ours: ScoredSet, theirs: ScoredSet, seed: int, replicates: int) -> Iterator[GateRow]:
    name = ours.eval_set.name
    if ours.rows_sha256 != theirs.rows_sha256:
        raise MetricError(
            f"`{ours.guard}` and `{theirs.guard}` were scored on different rows of `{name}`",
            hint="Score both with the same data, limit and seed.",
        )
    truth_N, ours_N, theirs_N = ours.truth_N, ours.filled(), theirs.filled()
    right = [(scores_N >= THRESHOLD) == truth_N for scores_N in (ours_N, theirs_N)]
    for metric in GATE_METRICS:
        difference = paired_cluster_bootstrap(
            statistic(metric, truth_N, ours_N),
            statistic(metric, truth_N, theirs_N),
            ours.clusters,
            seed=seed,
            replicates=replicates,
            unscored=ours.unscored + theirs.unscored,
            rule="guard minus baseline, prompts resampled, paired",
        )
        yield GateRow(
            set=name,
            metric=metric,
            guard=point(metric, truth_N, ours_N),
            baseline=point(metric, truth_N, theirs_N),
            difference=Figure.of(difference),
            holds=difference.low is not None and difference.low > 0,
            mcnemar_p=mcnemar_exact(*right).p_value if metric == "f1" else None,
        )
