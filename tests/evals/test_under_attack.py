"""What a style costs a guard: the figure of the very same prompts, as they are minus in the style."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from corral.evals.scored import ScoredSet
from corral.evals.tasks.moderation_sets import find_set
from corral.evals.under_attack import style_tables

TRUTH = [1, 0] * 20
PLAIN = [0.9, 0.2] * 15 + [0.4, 0.6] * 5


@pytest.fixture
def scored(scored_set: Callable[..., ScoredSet]) -> Callable[..., dict[str, ScoredSet]]:
    """A set as it is, and in styles by the rows and scores that each has."""

    def make(**styles: tuple[list[int], list[float]]) -> dict[str, ScoredSet]:
        sets = {"aegis_test": scored_set(TRUTH, PLAIN)}
        for style, (rows, scores) in styles.items():
            name = f"aegis_test+{style}"
            each = scored_set(
                [TRUTH[i] for i in rows], scores, eval_set=find_set(name), prompts=[f"prompt {i}" for i in rows]
            )
            examples = tuple(replace(row, id=f"{i}+{style}") for i, row in zip(rows, each.examples, strict=True))
            sets[name] = replace(each, examples=examples)
        return sets

    return make


def test_figures_are_those_of_scikit_learn_on_the_rows_that_the_style_asks(
    scored: Callable[..., dict[str, ScoredSet]],
) -> None:
    rows = [*range(10), *range(30, 40)]
    styled = np.linspace(0.9, 0.1, 20).tolist()
    (table,) = style_tables(scored(leet=(rows, styled)), replicates=50)
    (row,) = table.rows
    truth = [TRUTH[i] for i in rows]
    assert (table.set, table.metric, row.style, row.n) == ("aegis_test", "ap", "leet", 20)
    assert row.plain == pytest.approx(average_precision_score(truth, [PLAIN[i] for i in rows]), abs=1e-12)
    assert row.figure.value == pytest.approx(average_precision_score(truth, styled), abs=1e-12)
    assert row.lost.value == pytest.approx(row.plain - row.figure.value, abs=1e-12)
    assert (table.mean_lost.value, table.mean_lost.n) == (row.lost.value, 20)


def test_equal_scores_lose_nothing_in_any_resample(scored: Callable[..., dict[str, ScoredSet]]) -> None:
    (table,) = style_tables(scored(leet=(list(range(40)), PLAIN)), replicates=50)
    assert table.rows[0].lost.value == 0.0
    assert table.rows[0].lost.ci95 == (0.0, 0.0)


def test_the_mean_weighs_styles_alike(scored: Callable[..., dict[str, ScoredSet]]) -> None:
    sets = scored(leet=(list(range(40)), PLAIN), reverse=(list(range(20)), [0.5] * 20))
    (table,) = style_tables(sets, replicates=50)
    lost = [row.lost.value for row in table.rows]
    assert table.mean_lost.value == pytest.approx(sum(value or 0.0 for value in lost) / 2)
    assert lost[1] == pytest.approx((table.rows[1].plain or 0.0) - 0.5)  # a constant score has its floor


def test_a_set_without_styles_has_no_table(scored: Callable[..., dict[str, ScoredSet]]) -> None:
    assert list(style_tables(scored())) == []
