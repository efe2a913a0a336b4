"""One category at a time: a promptable guard is asked about category k alone.

1-vs-all: positives are rows labelled k, negatives all others, benign or otherwise harmful. 1-vs-benign drops the other
harms, and with them the hard negatives, so it flatters. A row whose label for k is unknown is in neither, and a
category that the guard's taxonomy lacks is ``not supported`` rather than ranked at its floor. Definitions:
``core/metrics``; protocol: Llama Guard (arXiv 2312.06674, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from pydantic import JsonValue

from corral.core import weighted
from corral.core.errors import NotFoundError
from corral.core.metric_inputs import Floats, Labels, as_labels
from corral.core.metrics import Selection, lift, one_vs_all, one_vs_benign, positive_rate
from corral.core.stats import REPLICATES, Estimate, cluster_bootstrap
from corral.data.examples import ModerationExample
from corral.guards.llama_guard.prompts import PolicyPrompt

NOT_SUPPORTED: Final = "not supported"

Judge = Callable[[PolicyPrompt, Sequence[ModerationExample]], Sequence[Floats]]
"""Scores of rows under a policy: one array (N,) a system, for systems that differ in their seed only."""


@dataclass(frozen=True)
class CategoryScores:
    """Scores of one category's rows by a guard that was asked about that category alone.

    Attributes:
        code: ``taxonomy/code``.
        name: of the category, as in the prompt; "" when not supported.
        rows: (N,) those whose label for the category is known; none when not supported.
        scores: (N,) of each system.
        supported: whether the guard's taxonomy has the category.
    """

    code: str
    name: str
    rows: tuple[ModerationExample, ...] = ()
    scores: tuple[Floats, ...] = field(default=(), repr=False)
    supported: bool = True

    @property
    def labels(self) -> Labels:
        """(N,) 1 where the row is of the category, 0 where not."""
        return category_labels(self.rows, self.code)


@dataclass(frozen=True, slots=True)
class CategoryFigures:
    """What one protocol says about one category: average precision with its floor and interval, mean over systems."""

    n: int
    positives: int
    floor: float | None
    ap: Estimate
    lift: float | None

    def to_json(self) -> dict[str, JsonValue]:
        """As plain JSON values."""
        return {
            "ap": self.ap.value,
            "ci95": None if self.ap.ci95 is None else list(self.ap.ci95),
            "floor": self.floor,
            "lift": self.lift,
            "n": self.n,
            "positives": self.positives,
        }


def category_labels(rows: Iterable[ModerationExample], code: str) -> Labels:
    """(N,) 1 where a row is of the category, 0 where it is not, -1 where the source does not say."""
    return as_labels([row.categories.get(code) for row in rows])


def score_categories(
    rows: Sequence[ModerationExample], policy: PolicyPrompt, codes: Sequence[str], judge: Judge
) -> list[CategoryScores]:
    """Ask about each category alone, on the rows whose label for it is known.

    Args:
        rows: with category labels.
        policy: gives the generation, the detail and the taxonomy.
        codes: qualified codes; one of another taxonomy, or that the policy's lacks, is not supported.
        judge: scores rows under a policy.
    """
    found = []
    for code in codes:
        single = _single(policy, code)
        if single is None:
            found.append(CategoryScores(code, "", supported=False))
            continue
        known = tuple(row for row in rows if code in row.categories)
        found.append(CategoryScores(code, single.categories[0].name, known, tuple(judge(single, known))))
    return found


def measure_one_vs_all(scored: CategoryScores, *, seed: int = 0, replicates: int = REPLICATES) -> CategoryFigures:
    """The category against everything else."""
    selections = [one_vs_all(scored.labels, scores) for scores in scored.scores]
    return _figures(scored, selections, seed=seed, replicates=replicates)


def measure_one_vs_benign(scored: CategoryScores, *, seed: int = 0, replicates: int = REPLICATES) -> CategoryFigures:
    """The category against benign rows; other harms, and rows not known to be harmless, are dropped."""
    harmful = [row.harmful for row in scored.rows]
    selections = [one_vs_benign(scored.labels, scores, harmful) for scores in scored.scores]
    return _figures(scored, selections, seed=seed, replicates=replicates)


def _figures(scored: CategoryScores, selections: Sequence[Selection], *, seed: int, replicates: int) -> CategoryFigures:
    """Figures of the rows that a protocol selects, which are the same for every system."""
    if not selections:
        nothing = Estimate(None, None, None, 0, 0, rule=NOT_SUPPORTED)
        return CategoryFigures(0, 0, None, nothing, None)
    first = selections[0]
    clusters = [scored.rows[row].group for row in first.rows.tolist()]
    statistic = weighted.mean_of([weighted.average_precision(each.labels, each.scores) for each in selections])
    estimate = cluster_bootstrap(statistic, clusters, seed=seed, replicates=replicates)
    floor = positive_rate(first.labels)
    raised = None if estimate.value is None or floor is None else lift(estimate.value, floor)
    return CategoryFigures(len(first.labels), int(np.sum(first.labels == 1)), floor, estimate, raised)


def _single(policy: PolicyPrompt, code: str) -> PolicyPrompt | None:
    """The policy of one category; ``None`` when its taxonomy has none of that code."""
    if not code.startswith(f"{policy.taxonomy.id}/"):
        return None
    try:
        return policy.with_categories([code])
    except NotFoundError:
        return None
