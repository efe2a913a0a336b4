"""From what a run measured to its evidence: differences over items and seeds, claims, and the file.

A trained system is measured once a seed, on the same items. Its figure is the mean over seeds; its interval resamples
clusters of items, the same for every seed and for both systems that are compared, and so says how far the figure
depends on the items. How far it depends on the seed is printed beside it, seed by seed: three seeds are too few for an
interval of their own.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any, Final

import numpy as np
from pydantic import JsonValue

from corral.core.config import Config
from corral.core.errors import MetricError, NotFoundError
from corral.core.evidence import EVIDENCE, Claim, Evidence
from corral.core.files import atomic_write_json
from corral.core.manifest import now
from corral.core.progress import milestone
from corral.core.recipes import load_profile
from corral.core.runs import Run
from corral.core.stats import REPLICATES, Estimate, cluster_bootstrap
from corral.core.weighted import Statistic, mean_of

NOTHING_ELSE: Final = ("these settings only; nothing else was tried",)
"""What is said about a claim that does not hold and whose recipe does not say what was tried."""

_UNDECIDED: Final = "not_decided"


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure of two systems and their difference, each the mean over seeds.

    Attributes:
        ours: of the system that the claim is about.
        baseline: of the other one.
        difference: ``ours - baseline`` with its interval over items.
        by_seed: the difference of each seed.
    """

    ours: float | None
    baseline: float | None
    difference: Estimate
    by_seed: tuple[float | None, ...]

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.difference.low is not None and self.difference.low > 0

    def to_json(self) -> dict[str, JsonValue]:
        """As plain JSON values, with the standard deviation over seeds where there are several."""
        known = [value for value in self.by_seed if value is not None]
        return {
            "ours": self.ours,
            "baseline": self.baseline,
            "difference": self.difference.value,
            "ci95": None if self.difference.ci95 is None else list(self.difference.ci95),
            "n": self.difference.n,
            "clusters": self.difference.clusters,
            "by_seed": list(self.by_seed),
            "spread_over_seeds": stdev(known) if len(known) > 1 else None,
        }


NOT_COMPARED: Final = Compared(None, None, Estimate(None, None, None, 0, 0), ())
"""Where there is nothing to compare, because what a claim rests on failed."""


def compare_over_seeds(
    ours: Sequence[Statistic],
    baseline: Sequence[Statistic],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Compared:
    """Compare two systems that were each trained with the same seeds and measured on the same items.

    Args:
        ours: the figure of each seed, from ``core/weighted``, over N items.
        baseline: that of the other system; one figure when it does not depend on the seed.
        clusters: (N,) cluster of each item.
        seed: of the bootstrap.
        replicates: resamples.

    Raises:
        MetricError: the systems have other numbers of seeds.
    """
    if not ours or len(baseline) not in (1, len(ours)):
        raise MetricError(f"{len(ours)} seeds are compared with {len(baseline)}")
    theirs = [*baseline] * (len(ours) if len(baseline) == 1 else 1)
    ours_mean, theirs_mean = mean_of(ours), mean_of(theirs)
    difference = cluster_bootstrap(
        lambda weights_NR: ours_mean(weights_NR) - theirs_mean(weights_NR),
        clusters,
        seed=seed,
        replicates=replicates,
        rule="95 % percentile interval, clusters of items resampled, mean over seeds",
    )
    n = len(clusters)
    by_seed = [_minus(point_of(a, n), point_of(b, n)) for a, b in zip(ours, theirs, strict=True)]
    return Compared(point_of(ours_mean, n), point_of(theirs_mean, n), difference, tuple(by_seed))


def claim_of(
    name: str,
    compared: Compared,
    *,
    metric: str,
    expected: str,
    seeds: Sequence[int],
    toy: bool,
    tried: Sequence[str] = (),
    also: bool = True,
    beside: Mapping[str, Any] | None = None,
) -> Claim:
    """The claim that a difference is above zero.

    Args:
        name: id of the claim.
        compared: the difference.
        metric: what was measured.
        expected: what the claim says, with every condition that ``holds`` rests on.
        seeds: of the trainings.
        toy: shown on templated text or a random model only.
        tried: what was done about a claim that does not hold.
        also: conditions of ``expected`` beyond the interval.
        beside: figures that stand beside it, in ``ours``.
    """
    holds = compared.above_zero and also
    return Claim(
        claim=name,
        metric=metric,
        baseline=compared.baseline,
        ours={**compared.to_json(), **(beside or {})},
        n=compared.difference.n,
        ci95=compared.difference.ci95,
        seeds=tuple(seeds),
        expected=expected,
        holds=holds,
        toy=toy,
        tried=tuple(tried) or (() if holds else NOTHING_ELSE),
    )


def tell(claim: Claim) -> Claim:
    """Say how a claim came out, in the log."""
    milestone(f"{claim.claim}: {outcome_of(claim)}, {claim.ci95}")
    return claim


def undecided(reason: str) -> dict[str, str]:
    """What stands beside the figures of a claim that nothing was found out about; nothing without a reason."""
    return {_UNDECIDED: reason} if reason else {}


def outcome_of(claim: Claim) -> str:
    """``holds``, ``does not hold``, or ``not decided`` with the reason."""
    if claim.holds:
        return "holds"
    reason = claim.ours.get(_UNDECIDED) if isinstance(claim.ours, dict) else None
    return f"not decided, {reason}" if reason else "does not hold"


def write_evidence(run: Run, config: Config, claims: Sequence[Claim]) -> Path:
    """Write the evidence of a run among its artefacts; ``corral recipes run --evidence`` publishes it from there."""
    manifest = run.manifest
    evidence = Evidence(
        system=manifest.recipe.partition("/")[0],
        command=command_of(run, config),
        versions=manifest.packages,
        date=now().date(),
        machine=manifest.machine,
        claims=tuple(claims),
    )
    path = run.artefacts / EVIDENCE
    atomic_write_json(path, evidence.model_dump(mode="json"))
    return path


def command_of(run: Run, config: Config) -> str:
    """The command that runs a recipe with these settings, those that differ from the packaged profile spelt out."""
    name = run.manifest.recipe
    try:
        _, packaged = load_profile(name)
    except NotFoundError:  # settings of the user's own
        return f"corral recipes run {name.partition('/')[2]}.yaml"
    changed = _changes(packaged.model_dump(mode="json"), config.model_dump(mode="json"))
    return " ".join([f"corral recipes run {name}", *(f"--set '{key}={json.dumps(value)}'" for key, value in changed)])


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and new value of every setting that differs."""
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            yield from _changes(old, value, f"{path}{key}.")
        elif value != old:
            yield f"{path}{key}", value


def point_of(statistic: Statistic, n: int) -> float | None:
    """A figure of N items as they are; ``None`` where it is undefined."""
    if n == 0:
        return None
    value = float(statistic(np.ones((n, 1)))[0])
    return None if np.isnan(value) else value


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
