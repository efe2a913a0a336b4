from typing import Any

import numpy as np
import pytest

from corral.core.errors import MetricError
from corral.core.metric_inputs import (
    UNKNOWN,
    as_binary,
    as_flags,
    as_labels,
    as_probabilities,
    as_scores,
    check_ids,
    drop_unknown,
    fill_unscored,
)


@pytest.mark.parametrize(
    "values",
    [
        [1, 0, None],
        [True, False, None],
        [1.0, 0.0, float("nan")],
        np.array([1, 0, -1]),
        np.array([1, 0, np.nan]),
        [1, 0, UNKNOWN],
    ],
)
def test_labels_are_one_zero_or_unknown_however_they_are_given(values: Any) -> None:
    assert as_labels(values).tolist() == [1, 0, UNKNOWN]
    assert as_labels(values).dtype == np.int8


def test_labels_may_be_a_table() -> None:
    assert as_labels([[1, None], [0, 1]]).tolist() == [[1, UNKNOWN], [0, 1]]
    assert as_labels([]).tolist() == []


@pytest.mark.parametrize("values", [[2], [0.5], ["1"], [None, "unsafe"], [float("inf")], [None, 7], [-2], [1, [0]]])
def test_any_other_label_is_refused(values: Any) -> None:
    with pytest.raises(MetricError):
        as_labels(values)


@pytest.mark.parametrize("values", [[0.5, float("nan")], [float("inf")], [None], ["a"]])
def test_a_score_has_to_be_a_finite_number(values: Any) -> None:
    with pytest.raises(MetricError):
        as_scores(values)


@pytest.mark.parametrize("values", [[-0.1], [1.1]])
def test_a_probability_lies_between_0_and_1(values: Any) -> None:
    with pytest.raises(MetricError, match="probabilities are needed"):
        as_probabilities(values)


def test_a_missing_decision_or_label_is_not_guessed() -> None:
    with pytest.raises(MetricError, match="a decision is missing"):
        as_flags([True, None])
    with pytest.raises(MetricError, match="dropped first"):
        as_binary([1, None])
    with pytest.raises(MetricError, match="one value an item"):
        as_binary([[1]])


def test_unknown_labels_are_dropped_with_their_scores() -> None:
    labels, scores, rows = drop_unknown([1, None, 0], [0.1, 0.2, 0.3])
    assert (labels.tolist(), scores.tolist(), rows.tolist()) == ([1, 0], [0.1, 0.3], [0, 2])
    with pytest.raises(MetricError, match="lengths differ: 1, 2"):
        drop_unknown([1], [0.1, 0.2])


@pytest.mark.parametrize(
    ("treatment", "expected"), [("unsafe", [0.4, 1.0, 1.0]), ("safe", [0.4, 0.0, 0.0]), ("drop", [0.4])]
)
def test_items_without_a_score_count_as_they_are_told_to(treatment: Any, expected: list[float]) -> None:
    labels, scores, rows = fill_unscored([1, 0, None], [0.4, None, float("nan")], treatment)
    assert scores.tolist() == expected
    assert rows.tolist() == list(range(len(expected)))
    assert labels.tolist() == [1, 0, UNKNOWN][: len(expected)]


def test_an_id_with_two_labels_is_named() -> None:
    check_ids(["a", "b", "a"], [1, 0, 1])
    with pytest.raises(MetricError, match="`a` is given with two labels"):
        check_ids(["a", "b", "a"], [1, 0, 0])
