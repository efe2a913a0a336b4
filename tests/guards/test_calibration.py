"""Calibration keeps the order of scores and puts the chosen threshold at 0.5."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.core.errors import ConfigError, MetricError
from corral.guards.calibration import Calibration, CalibrationRow, fit_calibration


def logistic_sample(slope, intercept, n=20_000, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, n)
    return scores, (rng.random(n) < 1 / (1 + np.exp(-(slope * scores + intercept)))).astype(int)


def test_the_slope_of_a_logistic_model_is_recovered():
    scores, labels = logistic_sample(1.7, -1.0)
    assert fit_calibration(scores, labels, split="dev").slope == pytest.approx(1.7, rel=0.05)


def test_the_slope_matches_scikit_learn_on_platts_smoothed_targets():
    linear_model = pytest.importorskip("sklearn.linear_model")
    scores, labels = logistic_sample(0.6, 0.4, n=500)
    positives, negatives = labels.sum(), (1 - labels).sum()
    share = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    reference = linear_model.LogisticRegression(C=np.inf, tol=1e-10).fit(
        np.tile(scores, 2)[:, None], np.repeat([1, 0], 500), sample_weight=np.concatenate([share, 1 - share])
    )
    slope = fit_calibration(scores, labels, split="dev").slope
    assert slope == pytest.approx(reference.coef_[0, 0], rel=1e-5)


def test_temperature_scaling_recovers_its_temperature():
    scores, labels = logistic_sample(0.5, 0.0)
    assert 1 / fit_calibration(scores, labels, split="dev", method="temperature").slope == pytest.approx(2.0, rel=0.05)


@settings(deadline=None)
@given(st.floats(0.01, 50), st.floats(-50, 50), st.lists(st.floats(-100, 100), min_size=2))
def test_higher_scores_never_get_lower_probabilities(slope, threshold, scores):
    p = Calibration(slope=slope, threshold=threshold).apply(np.sort(scores))
    assert (np.diff(p) >= 0).all()
    assert ((p >= 0) & (p <= 1)).all()


@settings(deadline=None)
@given(st.floats(0.01, 50), st.floats(-50, 50), st.floats(-100, 100))
def test_one_half_is_exactly_the_threshold(slope, threshold, score):
    calibration = Calibration(slope=slope, threshold=threshold)
    assert calibration.apply(threshold) == 0.5
    assert (calibration.apply(score) >= 0.5) == (score >= threshold) or np.isclose(score, threshold, rtol=1e-12)


def test_the_map_is_a_sigmoid_of_a_line():
    calibration = Calibration(slope=2.0, threshold=-0.5)
    scores = np.linspace(-3, 3, 7)
    expected = 1 / (1 + np.exp(-(calibration.slope * scores + calibration.intercept)))
    assert calibration.apply(scores) == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 50), st.floats(-50, 50), st.floats(-100, 100)), min_size=1, max_size=20))
def test_a_row_of_calibrations_is_each_applied_alone(drawn):
    calibrations = [Calibration(slope=slope, threshold=threshold) for slope, threshold, _ in drawn]
    scores = [score for _, _, score in drawn]
    alone = [float(one.apply(score)) for one, score in zip(calibrations, scores, strict=True)]
    assert CalibrationRow(calibrations).apply(scores).tolist() == pytest.approx(alone, rel=1e-12, abs=1e-12)


def test_extreme_scores_do_not_overflow_and_broken_ones_stay_broken():
    p = Calibration(slope=10).apply([1e300, -1e300, np.nan, np.inf])
    assert p[:2].tolist() == [1.0, 0.0]
    assert np.isnan(p[2:]).all()


def best_f1(scores, labels):
    """By brute force over every threshold."""
    values = []
    for threshold in np.unique(scores):
        predicted = scores >= threshold
        hit = (predicted & (labels == 1)).sum()
        values.append(2 * hit / (predicted.sum() + labels.sum()))
    return max(values)


def test_the_operating_point_is_the_best_f1_of_the_split():
    scores, labels = logistic_sample(1.0, -2.0, n=400)
    calibration = fit_calibration(scores, labels, split="dev")
    predicted = calibration.apply(scores) >= 0.5
    hit = (predicted & (labels == 1)).sum()
    assert 2 * hit / (predicted.sum() + labels.sum()) == pytest.approx(best_f1(scores, labels))
    assert calibration.rule == "max_f1"
    assert (calibration.n, calibration.positives) == (400, labels.sum())


def test_the_operating_point_can_be_a_false_positive_rate():
    scores, labels = logistic_sample(1.0, -1.0, n=3_000)
    calibration = fit_calibration(scores, labels, split="dev", max_fpr=0.01)
    false_positives = ((calibration.apply(scores) >= 0.5) & (labels == 0)).sum()
    assert false_positives / (labels == 0).sum() <= 0.01
    assert false_positives / (labels == 0).sum() > 0.008
    assert "0.01" in calibration.rule


def test_separable_classes_give_a_finite_slope_between_them():
    calibration = fit_calibration([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1], split="dev")
    assert 0 < calibration.slope < 100
    assert calibration.threshold == 0.0


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_unit_of_the_score_does_not_matter(unit):
    scores, labels = logistic_sample(1.0, 0.0, n=2_000)
    small = fit_calibration(scores, labels, split="dev").apply(scores)
    assert fit_calibration(scores * unit, labels, split="dev").apply(scores * unit) == pytest.approx(small, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "labels", "said"),
    [
        ([], [], "both classes"),
        ([1.0, 2.0], [1, 1], "both classes"),
        ([1.0, 2.0], [0, 1, 1], "do not match"),
        ([1.0, np.nan], [0, 1], "not finite"),
        ([1.0, np.inf], [0, 1], "not finite"),
        ([1.0, 2.0], [0, 2], "0 or 1"),
        ([1.0, 1.0], [0, 1], "equal"),
        ([2.0, 1.0, 3.0, 0.0], [0, 1, 0, 1], "do not rise"),
        ([[1.0], [2.0]], [[0], [1]], "shape"),
    ],
)
def test_degenerate_input_is_refused(scores, labels, said):
    with pytest.raises(MetricError, match=said):
        fit_calibration(scores, labels, split="dev")


def test_a_threshold_needs_a_named_split():
    with pytest.raises(MetricError, match="split"):
        fit_calibration([0.0, 1.0], [0, 1], split=" ")


def test_what_is_saved_is_read_back(tmp_path):
    calibration = fit_calibration([-1.0, 0.5, 0.4, 2.0], [0, 0, 1, 1], split="dev")
    calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == calibration


@pytest.mark.parametrize("field", [{"slope": 0}, {"slope": -1}, {"threshold": "x"}, {"surprise": 1}])
def test_a_damaged_file_is_refused_by_field(tmp_path, field):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(Calibration().model_dump() | field))
    with pytest.raises(ConfigError, match=next(iter(field))):
        Calibration.load(path)
