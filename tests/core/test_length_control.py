"""The length-controlled win rate agrees with closed forms and with a general optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from corral.core.errors import MetricError
from corral.core.length_control import LENGTH_PENALTY, length_controlled_win_rate


def fitted(wins, differences, weights=None) -> float:
    weights_N1 = np.ones((len(wins), 1)) if weights is None else np.asarray(weights, dtype=float)[:, None]
    return float(length_controlled_win_rate(wins, differences)(weights_N1)[0])


def optimised(wins, differences, weights) -> float:
    """The same penalised likelihood, by a general optimiser."""
    wins, weights = np.asarray(wins, dtype=float), np.asarray(weights, dtype=float)
    x = np.tanh(np.asarray(differences) / np.std(differences))

    def loss(parameters):
        logit = parameters[0] + parameters[1] * x
        return -(weights * (wins * logit - np.logaddexp(0, logit))).sum() + LENGTH_PENALTY * parameters[1] ** 2 / 2

    return float(1 / (1 + np.exp(-minimize(loss, [0.0, 0.0], tol=1e-12).x[0])))


def test_it_equals_a_general_optimiser_on_weighted_pairs():
    generator = np.random.default_rng(3)
    for _ in range(5):
        differences = generator.normal(20, 50, size=60)
        wins = generator.choice([0.0, 0.5, 1.0], size=60)
        weights = generator.integers(0, 4, size=60)
        assert fitted(wins, differences, weights) == pytest.approx(optimised(wins, differences, weights), abs=1e-5)


def test_without_differences_it_is_the_win_rate():
    assert fitted([1, 1, 1, 0], [5, 5, 5, 5]) == pytest.approx(0.75, abs=1e-9)
    assert fitted([1, 0.5, 0, 0], [0, 0, 0, 0]) == pytest.approx(0.375, abs=1e-9)


def test_symmetric_pairs_come_out_even():
    differences = np.array([-30, -10, 10, 30, -30, -10, 10, 30])
    assert fitted(differences > 0, differences) == pytest.approx(0.5, abs=1e-9)


def test_wins_by_length_alone_are_drawn_towards_even():
    generator = np.random.default_rng(5)
    differences = generator.normal(30, 40, size=400)
    wins = generator.random(400) < 1 / (1 + np.exp(-2 * np.tanh(differences / differences.std())))
    assert wins.mean() > 0.65
    assert fitted(wins, differences) == pytest.approx(0.5, abs=0.08)


def test_all_wins_and_all_losses_stay_finite():
    assert fitted([1] * 6, [3, -2, 5, 8, 0, 1]) == pytest.approx(1.0, abs=1e-6)
    assert fitted([0] * 6, [3, -2, 5, 8, 0, 1]) == pytest.approx(0.0, abs=1e-6)


def test_replicates_are_fitted_each_for_itself():
    generator = np.random.default_rng(7)
    wins, differences = generator.choice([0.0, 1.0], size=30), generator.normal(size=30)
    weights_NR = generator.integers(0, 3, size=(30, 6)).astype(float)
    weights_NR[:, 5] = 0
    together = length_controlled_win_rate(wins, differences)(weights_NR)
    for r in range(5):
        assert together[r] == pytest.approx(fitted(wins, differences, weights_NR[:, r]), abs=1e-9)
    assert np.isnan(together[5])


def test_input_without_a_meaning_is_refused():
    with pytest.raises(MetricError, match="between 0 and 1"):
        length_controlled_win_rate([2.0], [0.0])
    with pytest.raises(MetricError, match="finite"):
        length_controlled_win_rate([1.0], [np.nan])
    with pytest.raises(MetricError):
        length_controlled_win_rate([1.0, 0.0], [1.0])
