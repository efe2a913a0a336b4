"""A share of answers with the error of the judge that labelled them corrected for.

A judge with sensitivity se and specificity sp that says "yes" of a share p of the answers overstates or understates the
true share. Rogan and Gladen (American Journal of Epidemiology 107, 1978, equation 3) give

    share = (p + sp - 1) / (se + sp - 1),

cut to [0, 1]. It is right where the judge errs on the answers at hand as it does on the labelled ones, and is undefined
for a judge that is no better than chance (se + sp <= 1).

The interval is a bootstrap over both samples, clusters resampled, each sample on its own: it holds what is not known
of the judge beside what is not known of the answers. Where all items of a rate are alike there is nothing to resample;
its replicates are then drawn from the Beta distribution of Jeffreys' prior over the clusters, a deviation from the
plain bootstrap, which would take such a rate for known. Where over 5 % of the replicates are undefined, the judge is
not shown to be better than chance, and the interval is withheld. It is withheld too where every replicate is cut to
the same end: the judge then says "yes" more often than its sensitivity, or less often than its false alarms, which the
formula has no share for, and the labelled answers are of another kind than those at hand.

Answers without a label are left out of the corrected share, as they are of the judged one, and counted; ``fail_closed``
is the same share with each of them counted as a yes.

Shapes: N answers, M labelled answers, R replicates.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from corral.core import weighted
from corral.core.errors import MetricError
from corral.core.metric_inputs import Flags, Floats, Values, as_binary, as_flags, require_equal_lengths
from corral.core.stats import MAX_UNDEFINED, REPLICATES, Estimate, bootstrap_values, cluster_bootstrap, wilson

_PLAIN_RULE: Final = "95 % percentile interval, clusters resampled"
_RATES: Final[tuple[weighted.Rate, weighted.Rate]] = ("recall", "specificity")
_OTHER_DRAWS: Final = 1
"""Added to the seed of what is resampled apart from the labelled answers."""

RULE: Final = "95 % percentile interval, answers and labelled answers resampled by cluster"


@dataclass(frozen=True)
class LabelledSample:
    """What a judge said of answers that people labelled.

    Attributes:
        truth_M: (M,) 1 where people say yes.
        said_M: (M,) 1 where the judge says yes, 0 where no; answers that it could not label are left out before.
        clusters: (M,) answers of one cluster stand or fall together.

    Raises:
        MetricError: other values than 0 and 1, lengths that differ, or labels of one kind only.
    """

    truth_M: Values
    said_M: Values
    clusters: Sequence[Hashable]

    def __post_init__(self) -> None:
        truth, said = as_binary(self.truth_M), as_binary(self.said_M)
        require_equal_lengths(truth, said)
        if len(self.clusters) != len(truth):
            raise MetricError(f"{len(self.clusters)} clusters for {len(truth)} labelled answers")
        if not truth.any() or truth.all():
            raise MetricError(
                "the labelled answers are all of one kind, so one of the judge's two error rates is not known",
                hint="Label answers of both kinds.",
            )

    @property
    def positive(self) -> Flags:
        """(M,) where people say yes."""
        return as_flags(self.truth_M)


@dataclass(frozen=True, slots=True)
class CorrectedShare:
    """A share as judged and as corrected.

    Attributes:
        judged: the judge's own share.
        corrected: with its error corrected for; no value for a judge that is no better than chance.
        fail_closed: the corrected share with every answer without a label counted as a yes.
        sensitivity: of the judge on the labelled answers.
        specificity: likewise.
    """

    judged: Estimate
    corrected: Estimate
    fail_closed: Estimate
    sensitivity: Estimate
    specificity: Estimate


def rogan_gladen(judged: Floats, sensitivity: Floats, specificity: Floats) -> Floats:
    """The corrected share, cut to [0, 1]; NaN where sensitivity and specificity add up to 1 or less. Elementwise."""
    gain = sensitivity + specificity - 1
    better = gain > 0
    share = (judged + specificity - 1) / np.where(better, gain, 1.0)
    return np.where(better, np.clip(share, 0.0, 1.0), np.nan)


def corrected_share(
    said_N: Values,
    clusters: Sequence[Hashable],
    labelled: LabelledSample,
    *,
    settled_N: Values | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> CorrectedShare:
    """The share of answers that are a yes, as the judge says and with its error corrected for.

    Args:
        said_N: (N,) 1 where the judge says yes, 0 where no, NaN where it gave no label.
        clusters: (N,) answers of one cluster stand or fall together.
        labelled: what the judge said of answers that people labelled.
        settled_N: (N,) 1 or 0 where the answer is known without the judge, such as the refusal that a guard delivers in
            the place of a reply, else NaN. The correction leaves these as they are. ``None`` for none.
        seed: of the bootstrap.
        replicates: resamples of an interval.

    Raises:
        MetricError: other values than these, or lengths that differ.
    """
    said = np.asarray(said_N, dtype=np.float64)
    settled = np.full(len(said), np.nan) if settled_N is None else np.asarray(settled_N, dtype=np.float64)
    require_equal_lengths(said, settled)
    if len(clusters) != len(said):
        raise MetricError(f"{len(clusters)} clusters for {len(said)} answers")
    for values in (said, settled):
        if not np.isin(values[~np.isnan(values)], (0.0, 1.0)).all():
            raise MetricError("a label is neither 0, 1 nor missing")
    answers = _Answers(said, settled, list(clusters))
    rates, rates_R = _rates(labelled), _resampled_rates(labelled, seed, replicates)
    known = answers.shares(rates, answers.sums_5N.sum(axis=1, keepdims=True))
    drawn = answers.shares(rates_R, *answers.resampled(seed + _OTHER_DRAWS, replicates))
    return CorrectedShare(
        judged=answers.judged(seed, replicates),
        corrected=_estimate(answers, known[0], drawn[0], n=answers.n),
        fail_closed=_estimate(answers, known[1], drawn[1], n=len(answers.clusters)),
        sensitivity=_rate(labelled, "recall", seed, replicates),
        specificity=_rate(labelled, "specificity", seed, replicates),
    )


class _Answers:
    """The answers at hand: settled ones, judged ones and those without a label.

    Attributes:
        clusters: (N,) of the answers.
        sums_5N: (5, N) whether each is settled, a settled yes, judged, a judged yes, and without a label.
    """

    def __init__(self, said_N: Floats, settled_N: Floats, clusters: list[Hashable]) -> None:
        is_settled = ~np.isnan(settled_N)
        is_judged = ~is_settled & ~np.isnan(said_N)
        self.clusters = clusters
        self.sums_5N = np.stack(
            [is_settled, settled_N == 1, is_judged, is_judged & (said_N == 1), ~is_settled & ~is_judged]
        ).astype(np.float64)

    @property
    def missing(self) -> int:
        """Answers without a label."""
        return int(self.sums_5N[4].sum())

    @property
    def n(self) -> int:
        """Answers that are settled or judged."""
        return len(self.clusters) - self.missing

    def judged(self, seed: int, replicates: int) -> Estimate:
        """The share as the judge says."""
        known_N = self.sums_5N[4] == 0
        if not known_N.any():
            return Estimate(None, None, None, 0, 0, self.missing, _PLAIN_RULE)
        chosen = [cluster for cluster, known in zip(self.clusters, known_N.tolist(), strict=True) if known]
        yes_N = (self.sums_5N[1] + self.sums_5N[3])[known_N]
        if yes_N.min() == yes_N.max():
            return _wilson(float(yes_N[0]), self.n, len(set(chosen)), self.missing)
        return cluster_bootstrap(
            weighted.mean(yes_N), chosen, seed=seed, replicates=replicates, unscored=self.missing, rule=_PLAIN_RULE
        )

    def resampled(self, seed: int, replicates: int) -> tuple[Floats, Floats | None]:
        """(5, R) sums on resampled clusters, and (R,) the judge's share where it says the same of all, else none."""
        if not self.clusters:
            return np.zeros((5, replicates)), None
        drawn = [
            bootstrap_values(partial(_weigh, row_N), self.clusters, seed=seed, replicates=replicates)
            for row_N in self.sums_5N
        ]
        judged, yes = self.sums_5N[2].sum(), self.sums_5N[3].sum()
        if not judged or yes not in {0.0, judged}:
            return np.stack(drawn), None
        count = _count(self.clusters, self.sums_5N[2] == 1)
        return np.stack(drawn), _jeffreys(yes > 0, count, replicates, seed)

    def shares(
        self, rates: tuple[Floats, Floats], sums_5R: Floats, said_R: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """(R,) the corrected share of the answers that are settled or judged, and of all of them, failing closed.

        Args:
            rates: the judge's sensitivity and specificity, each (R,).
            sums_5R: (5, R) sums of ``sums_5N``.
            said_R: (R,) the judge's share of yes; from the sums when ``None``.
        """
        settled, settled_yes, judged, judged_yes, missing = sums_5R
        said = _over(judged_yes, judged) if said_R is None else said_R
        yes = settled_yes + np.where(judged > 0, judged * rogan_gladen(said, *rates), 0.0)
        return _over(yes, settled + judged), _over(yes + missing, settled + judged + missing)


def _rates(labelled: LabelledSample) -> tuple[Floats, Floats]:
    """Sensitivity and specificity, each (1,)."""
    ones = np.ones((len(labelled.clusters), 1))
    return _statistic(labelled, "recall")(ones), _statistic(labelled, "specificity")(ones)


def _resampled_rates(labelled: LabelledSample, seed: int, replicates: int) -> tuple[Floats, Floats]:
    """Replicates of both on the same resamples, each (R,); of a rate of 0 or 1 by Jeffreys' prior."""
    found = []
    for name, positive, value in zip(_RATES, (True, False), _rates(labelled), strict=True):
        if value[0] in {0.0, 1.0}:
            count = _count(labelled.clusters, labelled.positive == positive)
            found.append(_jeffreys(bool(value[0]), count, replicates, seed + _OTHER_DRAWS + 1 + positive))
        else:
            drawn = _statistic(labelled, name)
            found.append(bootstrap_values(drawn, labelled.clusters, seed=seed, replicates=replicates))
    return found[0], found[1]


def _rate(labelled: LabelledSample, name: weighted.Rate, seed: int, replicates: int) -> Estimate:
    statistic = _statistic(labelled, name)
    return cluster_bootstrap(statistic, labelled.clusters, seed=seed, replicates=replicates, rule=_PLAIN_RULE)


def _statistic(labelled: LabelledSample, name: weighted.Rate) -> weighted.Statistic:
    return weighted.rate(labelled.truth_M, as_binary(labelled.said_M) == 1, name)


def _estimate(answers: _Answers, value_1: Floats, drawn_R: Floats, *, n: int) -> Estimate:
    clusters, value = len(set(answers.clusters)), float(value_1[0]) if n else float("nan")
    if np.isnan(value):
        rule = "no value: the judge is no better than chance" if n else RULE
        return Estimate(None, None, None, n, clusters, answers.missing, rule)
    if clusters < 2:
        return Estimate(value, None, None, n, clusters, answers.missing, "withheld: one cluster")
    undefined = int(np.isnan(drawn_R).sum())
    if undefined > MAX_UNDEFINED * len(drawn_R):
        rule = "withheld: the judge is not shown to be better than chance"
        return Estimate(value, None, None, n, clusters, answers.missing, rule, undefined)
    low, high = np.nanquantile(drawn_R, [0.025, 0.975])
    if low == high:
        if not answers.sums_5N[2].any():
            return _wilson(value, n, clusters, answers.missing)
        rule = (
            "withheld: the judge says what its error on the labelled answers does not allow; they are of another kind"
        )
        return Estimate(value, None, None, n, clusters, answers.missing, rule, undefined)
    return Estimate(value, float(low), float(high), n, clusters, answers.missing, RULE, undefined)


def _wilson(value: float, n: int, clusters: int, missing: int) -> Estimate:
    """A share of 0 or 1, which has nothing to resample."""
    found = wilson(round(value * clusters), clusters)
    return Estimate(value, found.low, found.high, n, clusters, missing, "95 % Wilson interval over clusters")


def _jeffreys(yes: bool, count: int, replicates: int, seed: int) -> Floats:
    """(R,) draws of a rate of which all ``count`` clusters say the same."""
    return np.random.default_rng(seed).beta(yes * count + 0.5, (not yes) * count + 0.5, size=replicates)


def _count(clusters: Sequence[Hashable], kept_N: Flags) -> int:
    return len({cluster for cluster, kept in zip(clusters, kept_N.tolist(), strict=True) if kept})


def _weigh(values_N: Floats, weights_NR: Floats) -> Floats:
    return values_N @ weights_NR


def _over(numerator: Floats, denominator: Floats) -> Floats:
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1.0), np.nan)
