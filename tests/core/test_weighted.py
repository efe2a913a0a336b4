"""A weight is a number of copies: every statistic equals itself on the data with its rows repeated."""

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from corral.core import weighted
from corral.core.errors import MetricError
from corral.core.weighted import Rate, Statistic

STATISTICS: dict[str, Callable[[Any, Any], Statistic]] = {
    "average_precision": weighted.average_precision,
    "auroc": weighted.auroc,
    "recall_at_fpr": lambda y, s: weighted.recall_at_fpr(y, s, 0.2),
    "calibration_error": lambda y, s: weighted.calibration_error(y, s, 4),
    "mean": lambda _, s: weighted.mean(s),
    **{name: lambda y, s, name=name: weighted.rate(y, s >= 0.5, name) for name in get_args(Rate)},  # type: ignore[misc]
}


@pytest.mark.parametrize("name", STATISTICS)
@given(data=st.data())
def test_weights_are_copies(name: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 10))
    labels = data.draw(hnp.arrays(np.int8, n, elements=st.integers(0, 1)))
    scores = data.draw(hnp.arrays(np.float64, n, elements=st.integers(0, 4).map(lambda k: k / 4)))
    copies = data.draw(hnp.arrays(np.int64, (n, 3), elements=st.integers(0, 3)))
    statistic = STATISTICS[name]
    values = statistic(labels, scores)(copies.astype(np.float64))
    for times, value in zip(copies.T, values, strict=True):
        if times.sum() == 0:
            assert np.isnan(value)
            continue
        repeated = statistic(np.repeat(labels, times), np.repeat(scores, times))
        assert value == pytest.approx(repeated(np.ones((times.sum(), 1)))[0], abs=1e-12, nan_ok=True)


def test_unknown_labels_are_refused_rather_than_taken_for_negatives() -> None:
    for statistic in (weighted.average_precision, weighted.auroc, weighted.calibration_error):
        with pytest.raises(MetricError, match="unknown labels"):
            statistic([1, None], [0.1, 0.2])
    with pytest.raises(MetricError, match="unknown labels"):
        weighted.rate([1, None], [True, False], "f1")


def test_the_mean_of_figures_is_undefined_where_one_of_them_is() -> None:
    found = weighted.mean_of([weighted.mean([1.0, 0.0]), weighted.rate([1, 0], [True, True], "recall")])
    assert found(np.array([[1.0, 0.0], [1.0, 1.0]])).tolist() == pytest.approx([0.75, np.nan], nan_ok=True)


def test_parts_stand_one_after_another() -> None:
    found = weighted.mean_of_parts([weighted.mean([1.0, 0.0]), weighted.mean([0.5])], [2, 1])
    weights = np.array([[1.0, 3.0], [1.0, 1.0], [1.0, 2.0]])
    assert found(weights).tolist() == pytest.approx([(0.5 + 0.5) / 2, (0.75 + 0.5) / 2])
