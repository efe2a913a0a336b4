"""Figures of scores on pools, as the claims compare them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corral.core.metric_inputs import Floats
from corral.core.stats import Estimate, cluster_bootstrap
from corral.core.weighted import Statistic, auroc, mean, mean_of, mean_of_parts
from corral.guards.latent_guard.centres import Centres
from corral.guards.latent_guard.shards import Readings
from corral.studies.latent_guard.rows import Pool

Flags = NDArray[np.bool_]


def harm_scores(centres: Centres, readings: Readings) -> Floats:
    """Delta_harm at the position of the centres' variant, (N,)."""
    return centres.delta_harm(readings.at(centres.record.harm.position))


@dataclass(frozen=True, slots=True)
class ScoredPools:
    """Scores of several pools, one after the other, for every seed.

    Attributes:
        pools: in order.
        scores: by seed, of each pool.
    """

    pools: tuple[Pool, ...]
    scores: tuple[tuple[Floats, ...], ...]

    @property
    def clusters(self) -> tuple[Hashable, ...]:
        """Group of every row."""
        return tuple((pool.name, group) for pool in self.pools for group in pool.groups)

    def mean_auroc(self) -> list[Statistic]:
        """By seed, the mean over pools of AUROC of harm."""
        sizes = [len(pool.rows) for pool in self.pools]
        return [
            mean_of_parts([auroc(p.harmful_N, s) for p, s in zip(self.pools, of_seed, strict=True)], sizes)
            for of_seed in self.scores
        ]

    def of_pool(self, number: int) -> list[Statistic]:
        """By seed, AUROC of one pool."""
        return [auroc(self.pools[number].harmful_N, of_seed[number]) for of_seed in self.scores]


def paired_change(
    before: Sequence[Floats], after: Sequence[Floats], clusters: Sequence[Hashable], *, seed: int, replicates: int
) -> Estimate:
    """Mean over seeds and rows of ``after - before``, with its interval over rows."""
    statistics = [mean(b - a) for a, b in zip(before, after, strict=True)]
    return cluster_bootstrap(mean_of(statistics), clusters, seed=seed, replicates=replicates)


def rounded(estimate: Estimate) -> dict[str, Any]:
    """A figure and its interval for a table."""
    return {"value": estimate.value, "ci95": None if estimate.ci95 is None else list(estimate.ci95)}
