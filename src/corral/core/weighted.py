"""Metrics as functions of row weights: one definition for the figure and for its bootstrap.

A bootstrap replicate is the data with each row taken 0, 1, 2, ... times. A metric that reads those counts as weights
needs no copies of rows and sorts the scores once, so two thousand replicates of five thousand rows take a second.
With all weights 1 it is the metric itself, which is how ``core/metrics`` calls it.

Shapes: N rows, R replicates, K groups of rows with equal scores, B bins. Labels are 0 or 1: unknown ones are dropped
first (``metric_inputs.drop_unknown``). Every function raises ``MetricError`` on input that no metric is defined on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final, Literal, TypeAlias

import numpy as np

from corral.core.metric_inputs import (
    Floats,
    Values,
    as_binary,
    as_flags,
    as_probabilities,
    as_scores,
    require_equal_lengths,
)

Statistic: TypeAlias = Callable[[Floats], Floats]
"""Weights (N, R) to values (R,), NaN where the metric is undefined."""

CALIBRATION_BINS: Final = 15

Rate = Literal["precision", "recall", "f1", "fpr", "fnr", "accuracy", "flag_rate", "specificity", "kappa"]


class Ranking:
    """Rows grouped by score, highest first; sums weights by group.

    Rows tie when their scores are equal, and a tie is never split: a threshold takes all of it or none.

    Attributes:
        scores_K: the distinct scores, highest first.
    """

    def __init__(self, labels_N: Values, scores_N: Values) -> None:
        labels, scores = as_binary(labels_N), as_scores(scores_N)
        require_equal_lengths(labels, scores)
        self._order = np.argsort(-scores, kind="stable")
        self._positive = labels[self._order] == 1
        ranked = scores[self._order]
        self._starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]][: len(ranked)])
        self.scores_K = ranked[self._starts]

    def sums(self, weights_NR: Floats) -> tuple[Floats, Floats]:
        """Weight of positives and of negatives in each group, each (K, R)."""
        ranked = weights_NR[self._order]
        total = np.add.reduceat(ranked, self._starts, axis=0)
        positive = np.add.reduceat(ranked * self._positive[:, None], self._starts, axis=0)
        return positive, total - positive


def average_precision(labels_N: Values, scores_N: Values) -> Statistic:
    """Sum over distinct thresholds of the rise in recall times the precision there; undefined without positives."""
    ranking = Ranking(labels_N, scores_N)

    def statistic(weights_NR: Floats) -> Floats:
        positive, negative = ranking.sums(weights_NR)
        true = positive.cumsum(axis=0)
        flagged = true + negative.cumsum(axis=0)
        # before the first row with weight nothing is flagged and no recall is gained
        precision = true / np.maximum(flagged, np.finfo(np.float64).tiny)
        return _ratio((positive * precision).sum(axis=0), true[-1])

    return statistic


def auroc(labels_N: Values, scores_N: Values) -> Statistic:
    """Probability that a positive scores above a negative, a tie counting half; undefined without either class."""
    ranking = Ranking(labels_N, scores_N)

    def statistic(weights_NR: Floats) -> Floats:
        positive, negative = ranking.sums(weights_NR)
        above = positive.cumsum(axis=0) - positive
        won = (negative * (above + positive / 2)).sum(axis=0)
        return _ratio(won, positive.sum(axis=0) * negative.sum(axis=0))

    return statistic


def recall_at_fpr(labels_N: Values, scores_N: Values, limit: float) -> Statistic:
    """Largest recall over thresholds whose false-positive rate is at most ``limit``; undefined without either class."""
    ranking = Ranking(labels_N, scores_N)

    def statistic(weights_NR: Floats) -> Floats:
        positive, negative = ranking.sums(weights_NR)
        false = negative.cumsum(axis=0)
        within = false / np.maximum(false[-1], 1.0) <= limit  # the first groups only, since the rate never falls
        recall = _ratio((positive * within).sum(axis=0), positive.sum(axis=0))
        return np.where(false[-1] > 0, recall, np.nan)

    return statistic


def rate(labels_N: Values, flagged_N: Values, name: Rate) -> Statistic:
    """A figure of the confusion matrix, undefined where its denominator is 0.

    F1 is 0 when nothing is flagged, and undefined without positives. ``kappa`` is Cohen's (1960): agreement beyond
    what the margins give by chance.
    """
    positive, flagged = as_binary(labels_N) == 1, as_flags(flagged_N)
    require_equal_lengths(positive, flagged)
    cells_4N = np.stack([positive & flagged, ~positive & flagged, positive & ~flagged, ~positive & ~flagged]).astype(
        np.float64
    )

    def statistic(weights_NR: Floats) -> Floats:
        tp, fp, fn, tn = cells_4N @ weights_NR
        numerator, denominator = {
            "precision": (tp, tp + fp),
            "recall": (tp, tp + fn),
            "f1": (2 * tp, np.where(tp + fn > 0, 2 * tp + fp + fn, 0.0)),
            "fpr": (fp, fp + tn),
            "fnr": (fn, tp + fn),
            "accuracy": (tp + tn, tp + fp + fn + tn),
            "flag_rate": (tp + fp, tp + fp + fn + tn),
            "specificity": (tn, fp + tn),
            "kappa": (2 * (tp * tn - fn * fp), (tp + fp) * (fp + tn) + (tp + fn) * (fn + tn)),
        }[name]
        return _ratio(numerator, denominator)

    return statistic


def mean(values_N: Values) -> Statistic:
    """Weighted mean; of 0 and 1 a share, of squared errors the Brier score."""

    values = as_scores(values_N)

    def statistic(weights_NR: Floats) -> Floats:
        return _ratio(values @ weights_NR, weights_NR.sum(axis=0))

    return statistic


def mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of several figures on the same rows, such as those of systems trained with different seeds.

    Undefined where one of them is.
    """

    def statistic(weights_NR: Floats) -> Floats:
        return np.mean([each(weights_NR) for each in statistics], axis=0)  # type: ignore[no-any-return]

    return statistic


def mean_of_parts(statistics: Sequence[Statistic], sizes: Sequence[int]) -> Statistic:
    """The mean of figures of parts of the rows that stand one after another, such as those of several sets."""
    ends = list(accumulate(sizes))
    parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]

    def statistic(weights_NR: Floats) -> Floats:
        values = [each(weights_NR[part]) for each, part in zip(statistics, parts, strict=True)]
        return np.mean(values, axis=0)  # type: ignore[no-any-return]

    return statistic


def calibration_error(labels_N: Values, probabilities_N: Values, bins: int = CALIBRATION_BINS) -> Statistic:
    """Expected calibration error: over bins, the mean distance between probability and positive rate, by weight."""
    ranking = Ranking(labels_N, as_probabilities(probabilities_N))

    def statistic(weights_NR: Floats) -> Floats:
        weight, probability, positive = calibration_bins(ranking, weights_NR, bins)
        return _ratio(np.abs(probability - positive).sum(axis=0), weight.sum(axis=0))

    return statistic


def calibration_bins(ranking: Ranking, weights_NR: Floats, bins: int) -> tuple[Floats, Floats, Floats]:
    """Sums of weight, of probability and of positives in bins of equal mass, each (B, R), highest bin first.

    Rows with equal probabilities stay in one bin, the one that the middle of their mass falls in, so the order of the
    rows never matters and a bin may be empty.
    """
    positive, negative = ranking.sums(weights_NR)
    weight = positive + negative
    below = weight.cumsum(axis=0)
    middle = np.nan_to_num(_ratio(bins * (below - weight / 2), below[-1]))
    bin_KR = np.minimum(middle.astype(np.intp), bins - 1)  # a last group without weight would fall behind the last bin
    replicates = weight.shape[1]
    index = (bin_KR * replicates + np.arange(replicates)).ravel()

    def gathered(values_KR: Floats) -> Floats:
        sums: Floats = np.bincount(index, values_KR.ravel(), minlength=bins * replicates).astype(np.float64)
        return sums.reshape(bins, replicates)

    return gathered(weight), gathered(weight * ranking.scores_K[:, None]), gathered(positive)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient, NaN where the denominator is 0."""
    defined = denominator != 0
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), np.nan)
