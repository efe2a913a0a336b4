"""Figures with intervals: Wilson, cluster bootstrap, paired differences, exact McNemar.

Test sets repeat prompts, and translations, wrappers and frames of one prompt stand or fall together, so rows are not
independent: an interval that resamples rows is too narrow. Bootstraps here resample clusters (Davison and Hinkley,
Bootstrap Methods and their Application, 1997, section 3.8) and take percentiles.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from corral.core.errors import MetricError
from corral.core.metric_inputs import Floats, Values, as_flags, require_equal_lengths
from corral.core.weighted import Statistic

REPLICATES: Final = 2000
MAX_UNDEFINED: Final = 0.05
_CHUNK_WEIGHTS: Final = 1 << 18  # 2 MB of weights at a time stay in a core's cache


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, its 95 % interval and what it rests on.

    Attributes:
        value: the figure; ``None`` where undefined.
        low: lower end of the interval; ``None`` where withheld.
        high: upper end, likewise.
        n: items.
        clusters: groups of items that stand or fall together.
        unscored: items that the guard could not score, whatever they were counted as.
        rule: how the threshold or interval came about, as reports print it.
        undefined: bootstrap replicates without a value; over 5 % the interval is withheld.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int
    unscored: int = 0
    rule: str = ""
    undefined: int = 0

    @property
    def ci95(self) -> tuple[float, float] | None:
        """Both ends, or ``None``."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, the interval under ``ci95``."""
        return {
            "value": self.value,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "n": self.n,
            "clusters": self.clusters,
            "unscored": self.unscored,
            "rule": self.rule,
        }


@dataclass(frozen=True, slots=True)
class McNemar:
    """Exact McNemar test of two systems' decisions on the same items.

    Attributes:
        only_a: items that only the first got right.
        only_b: items that only the second got right.
        p_value: two-sided.
    """

    only_a: int
    only_b: int
    p_value: float


def wilson(successes: int, n: int, *, confidence: float = 0.95, unscored: int = 0, rule: str = "wilson") -> Estimate:
    """A rate with its Wilson score interval (Wilson 1927), for items that are independent."""
    if not 0 <= successes <= n:
        raise MetricError(f"{successes} successes among {n} items")
    if n == 0:
        return Estimate(None, None, None, 0, 0, unscored, rule)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # at 0 and n the formula gives 0 and 1 but for rounding
    low = 0.0 if successes == 0 else centre - reach
    high = 1.0 if successes == n else centre + reach
    return Estimate(rate, low, high, n, n, unscored, rule)


def cluster_bootstrap(
    statistic: Statistic,
    clusters: Sequence[Hashable] | npt.NDArray[Any],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
    confidence: float = 0.95,
    unscored: int = 0,
    rule: str = "",
) -> Estimate:
    """A figure with a percentile interval over resampled clusters.

    Args:
        statistic: from ``core/weighted``, over N items.
        clusters: (N,) key of each item's cluster, such as ``data.examples.prompt_key``.
        seed: equal seeds and clusters give equal resamples, so figures of different systems pair up.
        replicates: resamples to draw.
        confidence: of the interval.
        unscored: passed on to the estimate.
        rule: passed on to the estimate.

    Returns:
        An estimate whose interval is withheld when the figure is undefined, when there are fewer than two clusters, or
        when more than 5 % of the replicates are undefined.
    """
    index, count = _cluster_index(clusters)
    n = len(index)
    if n == 0:
        return Estimate(None, None, None, 0, 0, unscored, rule)
    value = float(statistic(np.ones((n, 1)))[0])
    if math.isnan(value):
        return Estimate(None, None, None, n, count, unscored, rule)
    if count < 2:
        return Estimate(value, None, None, n, count, unscored, rule)
    drawn = _replicates(statistic, index, count, replicates, seed)
    undefined = int(np.isnan(drawn).sum())
    if undefined > MAX_UNDEFINED * replicates:
        return Estimate(value, None, None, n, count, unscored, rule, undefined)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), n, count, unscored, rule, undefined)


def paired_cluster_bootstrap(
    ours: Statistic,
    theirs: Statistic,
    clusters: Sequence[Hashable] | npt.NDArray[Any],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
    confidence: float = 0.95,
    unscored: int = 0,
    rule: str = "",
) -> Estimate:
    """The difference ``ours - theirs`` of two figures on the same items, both taken on the same resamples.

    Arguments and result as for ``cluster_bootstrap``.
    """
    return cluster_bootstrap(
        lambda weights_NR: ours(weights_NR) - theirs(weights_NR),
        clusters,
        seed=seed,
        replicates=replicates,
        confidence=confidence,
        unscored=unscored,
        rule=rule,
    )


def bootstrap_values(
    statistic: Statistic,
    clusters: Sequence[Hashable] | npt.NDArray[Any],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Floats:
    """(replicates,) values of a figure on resampled clusters, NaN where undefined, to be combined with others'.

    Equal seeds and clusters give equal resamples. Arguments as for ``cluster_bootstrap``.

    Raises:
        MetricError: no item.
    """
    index, count = _cluster_index(clusters)
    if not count:
        raise MetricError("there is nothing to resample")
    return _replicates(statistic, index, count, replicates, seed)


def mcnemar_exact(right_a: Values, right_b: Values) -> McNemar:
    """Compare two systems' decisions at fixed thresholds on the same items (McNemar 1947, exact binomial form).

    Args:
        right_a: (N,) whether the first system was right.
        right_b: (N,) whether the second was.
    """
    from scipy.stats import binomtest

    a, b = as_flags(right_a), as_flags(right_b)
    require_equal_lengths(a, b)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    p_value = float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(only_a, only_b, p_value)


def _cluster_index(clusters: Sequence[Hashable] | npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], int]:
    """Number of each item's cluster, and how many there are; numbered in order of appearance."""
    numbers: dict[Hashable, int] = {}
    keys = clusters.tolist() if isinstance(clusters, np.ndarray) else clusters
    index = [numbers.setdefault(key, len(numbers)) for key in keys]
    return np.array(index, dtype=np.intp), len(numbers)


def _replicates(
    statistic: Statistic, index_N: npt.NDArray[np.intp], clusters: int, replicates: int, seed: int
) -> Floats:
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_WEIGHTS // len(index_N))
    drawn = []
    for start in range(0, replicates, chunk):
        size = min(chunk, replicates - start)
        picks = generator.integers(clusters, size=(size, clusters))
        cells = picks * size + np.arange(size)[:, None]
        times_CR = np.bincount(cells.ravel(), minlength=clusters * size).reshape(clusters, size).astype(np.float64)
        drawn.append(statistic(times_CR[index_N]))
    return np.concatenate(drawn)
