"""Paired differences: one formula on the same resamples of the samples that two scorecards share.

A difference of shares that is the same for every sample has no spread to resample: its interval reaches as far as
Wilson's does around a share of 0 (as for attack success in ``evals/tasks/moderator``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from corral.core.metric_inputs import Flags, Floats
from corral.core.stats import (
    REPLICATES,
    Estimate,
    cluster_bootstrap,
    mcnemar_exact,
    paired_cluster_bootstrap,
    wilson,
)
from corral.core.weighted import Statistic
from corral.evals.compare.results import Change, Tone
from corral.evals.results import Figure
from corral.evals.tasks.formulas import Mean, Peak
from corral.evals.tasks.task import Measure, SampleScore, applies, columns_of, figure_of, is_scored, is_used

_RULE: Final = "95 % percentile interval, clusters resampled, paired"
_ALPHA: Final = 0.05
_SHARES: Final = frozenset({"share", "points"})


@dataclass(frozen=True)
class Paired:
    """The samples that two scorecards share for one measure, in one order.

    Attributes:
        ours: (N,) of the baseline.
        theirs: (N,) of the other.
        left_out: samples that only one has, or that one could not score and that do not count then.
    """

    ours: tuple[SampleScore, ...]
    theirs: tuple[SampleScore, ...]
    left_out: int

    @property
    def clusters(self) -> list[str]:
        """(N,) clusters, which are the same in both."""
        return [sample.cluster for sample in self.ours]


def pair(measure: Measure, ours: Sequence[SampleScore], theirs: Sequence[SampleScore]) -> Paired:
    """The samples that enter the measure in both scorecards, matched by id."""
    ours_by_id, theirs_by_id = _applicable(measure, ours), _applicable(measure, theirs)
    shared = [
        id
        for id, sample in ours_by_id.items()
        if id in theirs_by_id and is_used(measure, sample) and is_used(measure, theirs_by_id[id])
    ]
    left_out = len(ours_by_id.keys() | theirs_by_id.keys()) - len(shared)
    return Paired(tuple(ours_by_id[id] for id in shared), tuple(theirs_by_id[id] for id in shared), left_out)


def change(
    letter: str,
    measure: Measure,
    ours: Sequence[SampleScore],
    theirs: Sequence[SampleScore],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Change:
    """The other scorecard minus the baseline on one measure.

    Args:
        letter: of the other.
        measure: its definition, the same in both.
        ours: samples of the baseline.
        theirs: samples of the other.
        seed: of the bootstrap.
        replicates: resamples a figure.
    """
    paired = pair(measure, ours, theirs)
    drawing = {"seed": seed, "replicates": replicates}
    difference = _difference(measure, paired, **drawing)
    p_value = _mcnemar(measure, paired)
    return Change(
        letter=letter,
        baseline=figure_of(measure, paired.ours, **drawing),
        other=figure_of(measure, paired.theirs, **drawing),
        difference=difference,
        relative=_relative(measure, paired, **drawing) if _has_ratio(measure, paired) else None,
        mcnemar_p=p_value,
        tone=tone(difference.ci95, measure.higher_is_better, p_value),
    )


def tone(ci95: tuple[float, float] | None, higher_is_better: bool | None, p_value: float | None = None) -> Tone:
    """What the interval of a difference says; where there is an exact test, it has to agree.

    A percentile interval is too narrow for a dozen items, where the exact test is not.
    """
    if ci95 is None or higher_is_better is None or ci95[0] <= 0.0 <= ci95[1]:
        return "open"
    if p_value is not None and p_value >= _ALPHA:
        return "open"
    return "better" if (ci95[0] > 0.0) == higher_is_better else "worse"


def _applicable(measure: Measure, samples: Sequence[SampleScore]) -> Mapping[str, SampleScore]:
    return {sample.id: sample for sample in samples if applies(measure, sample)}


def _difference(measure: Measure, paired: Paired, *, seed: int, replicates: int) -> Figure:
    columns, other_columns = _columns(measure, paired)
    first, second = measure.formula.statistic(columns), measure.formula.statistic(other_columns)
    unscored = paired.left_out + _filled_in(measure, paired)
    if isinstance(measure.formula, Peak):
        return Figure.of(_without_interval(_minus(second, first), paired, unscored))
    alike = _alike(measure, columns, other_columns)
    if alike is not None:
        return Figure.of(_moved_alike(_minus(second, first), alike, paired, unscored))
    found = paired_cluster_bootstrap(
        second, first, paired.clusters, seed=seed, replicates=replicates, unscored=unscored, rule=_RULE
    )
    return Figure.of(found)


def _has_ratio(measure: Measure, paired: Paired) -> bool:
    """Whether one figure is so many times the other: not for shares, nor where values fall below 0."""
    columns, other_columns = _columns(measure, paired)
    return measure.unit not in _SHARES and all((column >= 0).all() for column in (*columns, *other_columns))


def _relative(measure: Measure, paired: Paired, *, seed: int, replicates: int) -> Figure:
    columns, other_columns = _columns(measure, paired)
    first, second = measure.formula.statistic(columns), measure.formula.statistic(other_columns)

    def ratio(weights_NR: Floats) -> Floats:
        below, above = first(weights_NR), second(weights_NR)
        defined = below != 0
        return np.where(defined, above / np.where(defined, below, 1.0) - 1.0, np.nan)

    if isinstance(measure.formula, Peak):
        return Figure.of(_without_interval(ratio, paired, paired.left_out))
    found = cluster_bootstrap(
        ratio, paired.clusters, seed=seed, replicates=replicates, unscored=paired.left_out, rule=_RULE
    )
    return Figure.of(found)


def _columns(measure: Measure, paired: Paired) -> tuple[list[Floats], list[Floats]]:
    return columns_of(measure, paired.ours), columns_of(measure, paired.theirs)


def _filled_in(measure: Measure, paired: Paired) -> int:
    pairs = zip(paired.ours, paired.theirs, strict=True)
    return sum(not (is_scored(measure, a) and is_scored(measure, b)) for a, b in pairs)


def _minus(second: Statistic, first: Statistic) -> Statistic:
    return lambda weights_NR: second(weights_NR) - first(weights_NR)


def _without_interval(statistic: Statistic, paired: Paired, unscored: int) -> Estimate:
    n = len(paired.ours)
    value = float(statistic(np.ones((n, 1)))[0]) if n else None
    found = None if value is None or np.isnan(value) else value
    return Estimate(found, None, None, n, len(set(paired.clusters)), unscored, "no interval")


def _alike(measure: Measure, columns: list[Floats], other_columns: list[Floats]) -> Flags | None:
    """(N,) the samples that both figures are a share of, when every one of them moved by the same step; else None."""
    counted, other_counted = measure.formula.share_of(columns), measure.formula.share_of(other_columns)
    if counted is None or other_counted is None or not (counted == other_counted).all() or not counted.any():
        return None
    steps = other_columns[-1][counted] - columns[-1][counted]
    return counted if (steps == steps[0]).all() else None


def _moved_alike(statistic: Statistic, counted_N: Flags, paired: Paired, unscored: int) -> Estimate:
    base = _without_interval(statistic, paired, unscored)
    if base.value is None:
        return base
    n = len({cluster for cluster, counted in zip(paired.clusters, counted_N.tolist(), strict=True) if counted})
    slack = wilson(0, n).high or 0.0
    low, high = max(-1.0, base.value - slack), min(1.0, base.value + slack)
    return replace(base, low=low, high=high, rule=f"95 % Wilson interval over {n} clusters, paired")


def _mcnemar(measure: Measure, paired: Paired) -> float | None:
    """McNemar's exact p for figures that are a share of single samples; clusters count as one sample each must."""
    columns, other_columns = _columns(measure, paired)
    binary = isinstance(measure.formula, Mean) and paired.ours and len(set(paired.clusters)) == len(paired.ours)
    if not binary or measure.formula.share_of(columns) is None or measure.formula.share_of(other_columns) is None:
        return None
    return mcnemar_exact(columns[0] == 1, other_columns[0] == 1).p_value
