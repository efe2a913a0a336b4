"""Belief scores equal their formula, means that stream equal NumPy's, and a planted direction is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from corral.core.errors import ConfigError, DataError
from corral.guards.latent_guard.directions import category_directions, cosine_matrix
from corral.guards.latent_guard.scores import (
    TRANSFORMS,
    RunningMoments,
    centres_of_rows,
    choose_sites,
    cosines,
    delta,
    site_scores,
)


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    return generator.normal(1.0, 1.0, (12, 3, 5)), generator.normal(-0.2, 2.0, (9, 3, 5))


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5)


def test_delta_equals_the_formula_by_brute_force(rows):
    positive, negative = rows
    centres = centres_of_rows(positive, negative)
    scores = site_scores(positive, centres)
    for n, state in enumerate(positive):
        expected = [
            cosine(state[s], positive.mean(axis=0)[s]) - cosine(state[s], negative.mean(axis=0)[s]) for s in range(3)
        ]
        assert scores[n] == pytest.approx(expected, abs=1e-12)
        assert delta(scores)[n] == pytest.approx(sum(expected) / 3, abs=1e-12)


def test_centred_and_whitened_scores_equal_their_formulas(rows):
    positive, negative = rows
    centres = centres_of_rows(positive, negative)
    middle = (positive.mean(axis=0) + negative.mean(axis=0)) / 2
    spread = np.sqrt((positive.var(axis=0) + negative.var(axis=0)) / 2)
    state = negative[0, 1]
    a, b = positive.mean(axis=0)[1] - middle[1], negative.mean(axis=0)[1] - middle[1]
    centred = cosine(state - middle[1], a) - cosine(state - middle[1], b)
    whitened = cosine((state - middle[1]) / spread[1], a / spread[1]) - cosine(
        (state - middle[1]) / spread[1], b / spread[1]
    )
    assert site_scores(negative, centres, "centred")[0, 1] == pytest.approx(centred, abs=1e-12)
    assert site_scores(negative, centres, "whitened")[0, 1] == pytest.approx(whitened, abs=1e-12)


@given(
    arrays(np.float32, (11, 2, 3), elements=st.floats(-1e3, 1e3, width=32)),
    st.lists(st.integers(0, 11), max_size=4),
)
def test_moments_in_parts_equal_numpy_in_double_precision(values, cuts):
    moments = RunningMoments()
    for part in np.split(values, sorted(cuts)):
        moments.add(part)
    doubles = values.astype(np.float64)
    np.testing.assert_allclose(moments.mean, doubles.mean(axis=0), atol=1e-10)
    np.testing.assert_allclose(moments.variance, doubles.var(axis=0), atol=1e-8, rtol=1e-10)
    assert moments.count == 11


def test_a_planted_direction_at_one_site_is_recovered():
    generator = np.random.default_rng(3)
    planted = generator.normal(size=64)
    negative = generator.normal(size=(400, 4, 64))
    positive = generator.normal(size=(400, 4, 64))
    positive[:, 2] += 3 * planted / np.linalg.norm(planted) * 8
    centres = centres_of_rows(positive, negative)
    found = cosines(centres.direction, np.broadcast_to(planted, (4, 64)))
    assert found[2] > 0.99
    assert np.abs(np.delete(found, 2)).max() < 0.5


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_each_class_scores_towards_its_own_centre(rows, transform):
    positive, negative = rows
    centres = centres_of_rows(positive, negative)
    assert (
        delta(site_scores(positive, centres, transform)).mean()
        > delta(site_scores(negative, centres, transform)).mean()
    )


def test_sites_are_chosen_by_name():
    scores = np.arange(10.0).reshape(2, 5)
    assert delta(scores, "last:2").tolist() == [3.5, 8.5]
    assert delta(scores, "site:0").tolist() == [0.0, 5.0]
    assert delta(scores, "all").tolist() == [2.0, 7.0]


@pytest.mark.parametrize("choice", ["", "first:1", "last:0", "last:6", "site:5", "site:-1"])
def test_sites_that_there_are_not_are_refused(choice):
    with pytest.raises(ConfigError):
        choose_sites(choice, 5)


@pytest.mark.parametrize(("positives", "negatives", "name"), [(7, 20, "harmful"), (20, 0, "harmless")])
def test_a_class_with_too_few_rows_is_named(positives, negatives, name):
    with pytest.raises(DataError, match=f"rows are {name}, a centre needs 8"):
        centres_of_rows(np.ones((positives, 2, 3)), np.ones((negatives, 2, 3)), ("harmful", "harmless"))


def test_states_of_another_shape_are_refused(rows):
    centres = centres_of_rows(*rows)
    with pytest.raises(DataError, match="states of shape"):
        site_scores(np.ones((2, 3, 4)), centres)


def test_category_directions_are_the_category_means_against_all_harmless(rows):
    harmful, harmless = rows
    names = ["theft"] * 8 + ["rare"] * 4
    found = category_directions(harmful, names, harmless)
    assert list(found) == ["theft"]
    np.testing.assert_allclose(found["theft"], harmful[:8].mean(axis=0) - harmless.mean(axis=0))
    matrix = cosine_matrix([found["theft"], -found["theft"]])
    np.testing.assert_allclose(matrix, [[1, -1], [-1, 1]])
