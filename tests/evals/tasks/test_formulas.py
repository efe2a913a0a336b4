from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from corral.evals.tasks.formulas import (
    Auroc,
    AveragePrecision,
    ExpRatioOfSums,
    F1OverFlagAll,
    Formula,
    Mean,
    Peak,
    Quantile,
    RateAt,
    RatioOfSums,
)

TIED = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=2, max_size=30)


def value(formula: Formula, *columns: Sequence[float]) -> float:
    arrays = [np.array(column, dtype=np.float64) for column in columns]
    return float(formula.statistic(arrays)(np.ones((len(arrays[0]), 1)))[0])


def test_perplexity_and_bits_per_byte_weigh_samples_by_their_length() -> None:
    nats, tokens = [2.0, 10.0], [2.0, 4.0]
    assert value(ExpRatioOfSums(numerator="nats", denominator="tokens"), nats, tokens) == pytest.approx(math.exp(2.0))
    assert value(RatioOfSums(numerator="nats", denominator="tokens"), nats, tokens) == pytest.approx(2.0)


def test_a_ratio_over_nothing_is_undefined() -> None:
    assert math.isnan(value(RatioOfSums(numerator="a", denominator="b"), [1.0], [0.0]))


@given(TIED)
def test_ranking_metrics_equal_scikit_learn_with_ties(rows: list[tuple[int, int]]) -> None:
    truth, scores = [float(y) for y, _ in rows], [s / 3 for _, s in rows]
    if sum(truth) > 0.0:
        expected = average_precision_score(truth, scores)
        assert value(AveragePrecision(truth="t", score="s"), truth, scores) == pytest.approx(expected, abs=1e-12)
    if 0.0 < sum(truth) < len(truth):
        assert value(Auroc(truth="t", score="s"), truth, scores) == pytest.approx(
            roc_auc_score(truth, scores), abs=1e-12
        )


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
def test_f1_over_flag_all_equals_scikit_learn(rows: list[tuple[int, int]]) -> None:
    truth, flagged = [float(y) for y, _ in rows], [float(f) for _, f in rows]
    if sum(truth):
        expected = f1_score(truth, flagged) - f1_score(truth, np.ones(len(truth)))
        assert value(F1OverFlagAll(truth="t", flagged="f"), truth, flagged) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20), st.sampled_from([0.05, 0.5, 0.95]))
def test_a_quantile_is_numpys_inverted_distribution(values: list[int], q: float) -> None:
    expected = np.quantile(np.array(values, dtype=np.float64), q, method="inverted_cdf")
    assert value(Quantile(value="v", q=q), values) == expected


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=12), st.sampled_from([0.5, 0.95]))
def test_weights_stand_for_repeated_samples(rows: list[tuple[int, int]], q: float) -> None:
    values, weights = np.array([v for v, _ in rows], dtype=np.float64), np.array([w for _, w in rows])
    repeated = np.repeat(values, weights)
    for formula in (Quantile(value="v", q=q), Peak(value="v"), Mean(value="v")):
        found = formula.statistic([values])(weights[:, None].astype(np.float64))[0]
        if len(repeated):
            assert found == pytest.approx(value(formula, repeated))


def test_a_rate_is_a_share_of_the_rows_that_its_name_says() -> None:
    truth, flagged = np.array([1.0, 1.0, 0.0]), np.array([1.0, 0.0, 1.0])
    rows = {
        rate: RateAt(truth="t", flagged="f", rate=rate).share_of([truth, flagged])
        for rate in ("recall", "fpr", "precision", "f1")
    }
    assert rows["recall"] is not None and rows["recall"].tolist() == [True, True, False]
    assert rows["fpr"] is not None and rows["fpr"].tolist() == [False, False, True]
    assert rows["precision"] is not None and rows["precision"].tolist() == [True, False, True]
    assert rows["f1"] is None


def test_a_mean_is_a_share_only_of_zeros_and_ones() -> None:
    assert Mean(value="v").share_of([np.array([0.0, 1.0])]) is not None
    assert Mean(value="v").share_of([np.array([0.0, 0.5])]) is None


@pytest.mark.parametrize(
    "formula",
    [
        Mean(value="v"),
        RatioOfSums(numerator="a", denominator="b"),
        RateAt(truth="t", flagged="f", rate="fpr"),
        Quantile(value="v", q=0.95),
        Peak(value="v"),
    ],
)
def test_a_formula_comes_back_from_json(formula: Formula) -> None:
    adapter: TypeAdapter[Formula] = TypeAdapter(Formula)
    assert adapter.validate_json(adapter.dump_json(formula)) == formula
