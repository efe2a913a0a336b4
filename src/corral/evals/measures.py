"""From scores to the figures of one set: every metric with its interval, and F1 beside that of flagging everything.

Definitions are those of ``core/metrics``; intervals resample prompts (``core/stats``). A set without negatives shows
recall (F1 there is 2R/(1+R)), one without positives the false-positive rate, and neither shows a ranking metric.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np

from corral.core import metrics, weighted
from corral.core.metric_inputs import Flags, Floats, Labels
from corral.core.stats import REPLICATES, Estimate, cluster_bootstrap, paired_cluster_bootstrap, wilson
from corral.core.weighted import Statistic
from corral.data.examples import ModerationExample
from corral.evals.results import Confusion, Figure, SetResult, Slice
from corral.evals.scored import THRESHOLD, THRESHOLD_RULE, ScoredSet
from corral.evals.tasks.eval_set import EvalSet, Kind

FPR_LIMIT: Final = 0.01
_BOOTSTRAP_RULE: Final = "95 % percentile interval, prompts resampled"

FIGURES: Final[Mapping[Kind, tuple[str, ...]]] = {
    "mixed": (
        "ap",
        "auroc",
        "f1",
        "flag_all_f1",
        "f1_minus_flag_all",
        "precision",
        "recall",
        "fpr",
        "accuracy",
        "recall_at_fpr_1",
        "ece",
        "brier",
    ),
    "positives": ("recall", "f1"),
    "negatives": ("fpr",),
}
"""The figures of each kind of set, in the order of reports."""

RATES: Final[tuple[weighted.Rate, ...]] = ("precision", "recall", "f1", "fpr", "accuracy")
_CALIBRATION: Final = frozenset({"ece", "brier"})
_SHARES: Final[Mapping[str, Callable[[Flags, Flags], Flags]]] = {
    "precision": lambda positive, flagged: flagged,
    "recall": lambda positive, flagged: positive,
    "fpr": lambda positive, flagged: ~positive,
    "accuracy": lambda positive, flagged: np.ones_like(positive),
}
"""Rates that are a share of rows, and the rows that each is a share of."""


def statistic(name: str, truth_N: Labels, scores_N: Floats) -> Statistic:
    """The metric of that name as a function of row weights.

    Args:
        name: one of ``FIGURES``, but for the difference ``f1_minus_flag_all``.
        truth_N: in {0, 1}.
        scores_N: in [0, 1], none missing.
    """
    flagged_N = scores_N >= THRESHOLD
    makers: dict[str, Callable[[], Statistic]] = {
        "ap": lambda: weighted.average_precision(truth_N, scores_N),
        "auroc": lambda: weighted.auroc(truth_N, scores_N),
        "flag_all_f1": lambda: weighted.rate(truth_N, np.ones_like(flagged_N), "f1"),
        "recall_at_fpr_1": lambda: weighted.recall_at_fpr(truth_N, scores_N, FPR_LIMIT),
        "ece": lambda: weighted.calibration_error(truth_N, scores_N),
        "brier": lambda: weighted.mean((scores_N - truth_N) ** 2),
        **{rate: partial(weighted.rate, truth_N, flagged_N, rate) for rate in RATES},
    }
    return makers[name]()


def measure(scored: ScoredSet, *, seed: int = 0, replicates: int = REPLICATES) -> SetResult:
    """All figures of one set.

    Args:
        scored: the rows, truths and scores.
        seed: of the bootstrap; equal seeds pair the resamples of different guards.
        replicates: resamples a figure.
    """
    eval_set, truth_N, filled_N = scored.eval_set, scored.truth_N, scored.filled()
    figures = {name: _figure(name, scored, seed, replicates) for name in FIGURES[eval_set.kind]}
    floor = metrics.positive_rate(truth_N) if eval_set.kind == "mixed" else None
    positives, n = int(truth_N.sum()), len(truth_N)
    ap = figures["ap"].value if "ap" in figures else None
    counts = metrics.confusion_at(truth_N, filled_N, THRESHOLD)
    return SetResult(
        name=eval_set.name,
        head=eval_set.head,
        kind=eval_set.kind,
        source=eval_set.source,
        files=dict(eval_set.checksums),
        rows_sha256=scored.rows_sha256,
        positive_rule=eval_set.rule,
        score_rule=scored.score_rule,
        threshold_rule=THRESHOLD_RULE,
        n=n,
        rows_in_set=scored.rows_in_set,
        positives=positives,
        clusters=len(set(scored.clusters)),
        unscored=scored.unscored,
        unscored_counted_as=scored.counted_as,
        floor=floor,
        expected_random_ap=None if floor is None else metrics.expected_random_ap(positives, n),
        lift=None if ap is None or floor is None else metrics.lift(ap, floor),
        confusion=Confusion(tp=counts.tp, fp=counts.fp, fn=counts.fn, tn=counts.tn),
        figures=figures,
        unscored_ways=_unscored_ways(scored) if scored.unscored else {},
        slices=tuple(slices(eval_set, scored.examples, truth_N, filled_N >= THRESHOLD)),
        latency_ms_p50=float(np.quantile(scored.latency_ms_N, 0.5)),
        latency_ms_p95=float(np.quantile(scored.latency_ms_N, 0.95)),
        seconds=float(scored.latency_ms_N.sum()) / 1e3,
        parts=() if scored.cost is None else scored.cost.parts,
        caveats=tuple(_caveats(scored)),
    )


def interval_of(
    name: str,
    truth_N: Labels,
    scores_N: Floats,
    clusters: Sequence[str],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
    unscored: int = 0,
) -> Estimate:
    """The metric of that name with its interval over resampled prompts.

    A rate of exactly 0 or 1 has no spread to resample, so its interval is Wilson's over the prompts that it is a share
    of: none of 1,000 flagged does not mean that none ever will be.

    Args:
        name: one of ``FIGURES``.
        truth_N: in {0, 1}.
        scores_N: in [0, 1], none missing.
        clusters: (N,) the prompt each row belongs to.
        seed: of the bootstrap.
        replicates: resamples.
        unscored: for the record.
    """
    value = point(name, truth_N, scores_N) if name in _SHARES else None
    if value in (0.0, 1.0):
        rows = np.flatnonzero(_SHARES[name](truth_N == 1, scores_N >= THRESHOLD))
        prompts = len({clusters[row] for row in rows.tolist()})
        found = wilson(prompts if value else 0, prompts)
        rule = f"{THRESHOLD_RULE}; 95 % Wilson interval over {prompts} prompts"
        return Estimate(value, found.low, found.high, len(truth_N), len(set(clusters)), unscored, rule)
    if name == "f1_minus_flag_all":
        return paired_cluster_bootstrap(
            statistic("f1", truth_N, scores_N),
            statistic("flag_all_f1", truth_N, scores_N),
            clusters,
            seed=seed,
            replicates=replicates,
            unscored=unscored,
            rule=f"{THRESHOLD_RULE}; {_BOOTSTRAP_RULE}, paired",
        )
    return cluster_bootstrap(
        statistic(name, truth_N, scores_N),
        clusters,
        seed=seed,
        replicates=replicates,
        unscored=unscored,
        rule=_rule(name),
    )


def _figure(name: str, scored: ScoredSet, seed: int, replicates: int) -> Figure:
    truth_N, scores_N, clusters, note = scored.truth_N, scored.filled(), scored.clusters, ""
    if name in _CALIBRATION:  # an assumed score says nothing about the guard's probabilities
        kept = np.flatnonzero(~np.isnan(scored.scores_N))
        truth_N, scores_N, clusters = truth_N[kept], scores_N[kept], [clusters[row] for row in kept]
        note = "unscored rows dropped" if scored.unscored else ""
    if name == "recall_at_fpr_1":
        found = metrics.recall_at_fpr(truth_N, scores_N, FPR_LIMIT)
        if found.value is None:
            undefined = Estimate(None, None, None, len(truth_N), len(set(clusters)), scored.unscored, _rule(name))
            return Figure.of(undefined, f"undefined with {found.negatives} negatives")
        note = f"coarse: {found.negatives} negatives" if found.coarse else ""
    estimate = interval_of(
        name, truth_N, scores_N, clusters, seed=seed, replicates=replicates, unscored=scored.unscored
    )
    return Figure.of(estimate, note)


def _rule(name: str) -> str:
    if name == "recall_at_fpr_1":
        return f"oracle threshold: FPR <= 1 % on the negatives of this set; {_BOOTSTRAP_RULE}"
    if name == "flag_all_f1":
        return f"every row flagged; {_BOOTSTRAP_RULE}"
    return f"{THRESHOLD_RULE}; {_BOOTSTRAP_RULE}" if name in RATES else _BOOTSTRAP_RULE


def _unscored_ways(scored: ScoredSet) -> dict[str, dict[str, float | None]]:
    """Figures without intervals with unscored rows dropped, counted as positive and counted as negative."""
    ranked = ("ap",) if scored.eval_set.kind == "mixed" else ()
    rates = [name for name in FIGURES[scored.eval_set.kind] if name in RATES]
    ways: dict[str, dict[str, float | None]] = {}
    for counted_as in ("dropped", "positive", "negative"):
        truth, scores = scored.treated(counted_as)
        ways[counted_as] = {name: point(name, truth, scores) for name in (*ranked, *rates)}
    return ways


def point(name: str, truth_N: Labels, scores_N: Floats) -> float | None:
    """The metric of that name without an interval; ``None`` where it is undefined."""
    if not len(truth_N):
        return None
    value = float(statistic(name, truth_N, scores_N)(np.ones((len(truth_N), 1)))[0])
    return None if np.isnan(value) else value


def slices(
    eval_set: EvalSet, examples: tuple[ModerationExample, ...], truth_N: Labels, flagged_N: Flags
) -> Iterator[Slice]:
    """Recall and false-positive rate of the rows that share a value, for each column that the set is broken down by."""
    for column in eval_set.slices:
        members: dict[str, list[int]] = defaultdict(list)
        for index, example in enumerate(examples):
            for value in slice_values(example, column):
                members[value].append(index)
        for value in sorted(members):
            truth, flagged = truth_N[members[value]], flagged_N[members[value]]
            counts = metrics.confusion(truth, flagged)
            yield Slice(
                by=column,
                value=value,
                n=counts.n,
                positives=counts.positives,
                recall=Figure.of(wilson(counts.tp, counts.positives)) if counts.positives else None,
                fpr=Figure.of(wilson(counts.fp, counts.negatives)) if counts.negatives else None,
            )


def slice_values(example: ModerationExample, column: str) -> list[str]:
    """The values of a slicing column: several when a row has several categories, none when it has none.

    ``category`` means the categories of our taxonomies unless upstream has a column of that name.
    """
    if column in example.raw:
        values = example.raw[column]
        return [str(value) for value in (values if isinstance(values, list) else [values]) if value is not None]
    if column == "category":
        return [code for code, present in example.categories.items() if present]
    value = getattr(example, column, None)
    return [str(value)] if value else []


def _caveats(scored: ScoredSet) -> Iterator[str]:
    if scored.eval_set.caveat:
        yield scored.eval_set.caveat
    if len(scored.examples) < scored.rows_in_set:
        yield f"A sample of {len(scored.examples)} of {scored.rows_in_set} rows."
    if scored.score_rule.endswith("†"):
        yield "† The guard has no refusal output: a response that it does not call harmful is read as a refusal."
    elif scored.score_rule == "own decision":
        yield "The guard gives no probability: ranking and calibration rest on two values."
