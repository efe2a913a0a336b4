"""One set as it is and in attack styles: what each style costs, on the same rows and the same resamples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from corral.core.metric_inputs import Floats
from corral.core.stats import REPLICATES, cluster_bootstrap
from corral.core.weighted import Statistic
from corral.evals.measures import statistic
from corral.evals.results import Figure, StyleRow, StyleTable
from corral.evals.scored import ScoredSet
from corral.evals.tasks.eval_set import Kind
from corral.evals.tasks.styled_sets import JOINT, plain_id

METRIC: Final[Mapping[Kind, str]] = {"mixed": "ap", "positives": "recall", "negatives": "fpr"}
"""What is compared, by kind of set."""


def style_tables(
    scored: Mapping[str, ScoredSet], *, seed: int = 0, replicates: int = REPLICATES
) -> Iterator[StyleTable]:
    """One table for each set that was scored as it is and in styles.

    Args:
        scored: sets of one guard, by name.
        seed: of the bootstrap.
        replicates: resamples a figure.
    """
    for name, plain in scored.items():
        styled = [each for other, each in scored.items() if other.startswith(f"{name}{JOINT}") and each.scores_N.size]
        if styled:
            yield _table(plain, styled, seed, replicates)


def _table(plain: ScoredSet, styled: list[ScoredSet], seed: int, replicates: int) -> StyleTable:
    metric = METRIC[plain.eval_set.kind]
    places = {row.id: place for place, row in enumerate(plain.examples)}
    asked = sorted({places[plain_id(row, each.eval_set.style)] for each in styled for row in each.examples})
    clusters = [plain.examples[place].group for place in asked]
    pairs = [_Pair(metric, plain, asked, each) for each in styled]

    def estimate(figure: Statistic, rule: str, unscored: int) -> Figure:
        found = cluster_bootstrap(figure, clusters, seed=seed, replicates=replicates, unscored=unscored, rule=rule)
        return Figure.of(found)

    rows = []
    for pair in pairs:
        style = pair.styled.eval_set.style
        under = estimate(pair.under_attack, "prompts resampled", pair.styled.unscored)
        lost = estimate(pair.lost, "as it is minus in the style, paired by prompt", pair.styled.unscored)
        n = len(pair.styled.examples)
        rows.append(
            StyleRow(
                style=style,
                n=n,
                plain=_point(pair.plain_figure, len(clusters)),
                figure=under.model_copy(update={"n": n}),
                lost=lost.model_copy(update={"n": n}),
            )
        )
    mean = estimate(
        lambda weights_NR: np.mean([pair.lost(weights_NR) for pair in pairs], axis=0),
        f"unweighted mean over {len(pairs)} styles of as it is minus in the style, paired by prompt",
        sum(pair.styled.unscored for pair in pairs),
    )
    return StyleTable(set=plain.eval_set.name, metric=metric, rows=tuple(rows), mean_lost=mean)


class _Pair:
    """The rows that a style asks, as they are and in the style, as figures over weights of the rows that any asks."""

    def __init__(self, metric: str, plain: ScoredSet, asked: Sequence[int], styled: ScoredSet) -> None:
        self.styled = styled
        where = {plain.examples[place].id: index for index, place in enumerate(asked)}
        self._kept = np.array([where[plain_id(row, styled.eval_set.style)] for row in styled.examples], dtype=np.intp)
        self._plain = statistic(metric, styled.truth_N, plain.filled()[np.array(asked)][self._kept])
        self._styled = statistic(metric, styled.truth_N, styled.filled())

    def plain_figure(self, weights_NR: Floats) -> Floats:
        """Of the rows as they are."""
        return self._plain(weights_NR[self._kept])

    def under_attack(self, weights_NR: Floats) -> Floats:
        """Of the same rows in the style."""
        return self._styled(weights_NR[self._kept])

    def lost(self, weights_NR: Floats) -> Floats:
        """The one minus the other."""
        return self.plain_figure(weights_NR) - self.under_attack(weights_NR)


def _point(figure: Statistic, n: int) -> float | None:
    value = float(figure(np.ones((n, 1)))[0])
    return None if np.isnan(value) else value
