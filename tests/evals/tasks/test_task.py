from __future__ import annotations

import math

import pytest

from corral.core.errors import MetricError
from corral.core.stats import wilson
from corral.evals.tasks.formulas import Mean, Peak, RateAt
from corral.evals.tasks.task import Measure, SampleScore, figure_of, figures_of

ACCURACY = Measure(
    name="accuracy",
    title="Accuracy",
    unit="share",
    higher_is_better=True,
    area="ability",
    formula=Mean(value="correct"),
)


def sample(id: str, correct: float | None, *, cluster: str = "", group: str = "") -> SampleScore:
    return SampleScore(id, cluster or id, {"correct": correct}, group=group)


def with_(**changes: object) -> Measure:
    return ACCURACY.model_copy(update=changes)


def test_a_figure_is_the_formula_over_the_samples() -> None:
    figure = figure_of(ACCURACY, [sample("a", 1.0), sample("b", 0.0), sample("c", 1.0), sample("d", 1.0)])
    assert figure.value == 0.75
    assert figure.ci95 is not None and figure.ci95[0] < 0.75 < figure.ci95[1]
    assert (figure.n, figure.clusters, figure.unscored) == (4, 4, 0)


def test_unscored_samples_are_counted_and_left_out_unless_the_measure_says_what_they_count_as() -> None:
    samples = [sample("a", 1.0), sample("b", None), sample("c", 0.0)]
    left_out = figure_of(ACCURACY, samples)
    assert (left_out.value, left_out.n, left_out.unscored) == (0.5, 2, 1)
    counted = figure_of(with_(unscored_as=0.0), samples)
    assert (counted.value, counted.n, counted.unscored) == (pytest.approx(1 / 3), 3, 1)


def test_a_sample_without_the_value_or_of_another_group_does_not_apply() -> None:
    samples = [sample("a", 1.0, group="x"), sample("b", 0.0, group="y"), SampleScore("c", "c", {"other": 1.0}, "x")]
    figure = figure_of(with_(group="x"), samples)
    assert (figure.value, figure.n, figure.unscored) == (1.0, 1, 0)


def test_a_share_of_none_has_wilsons_interval_over_its_clusters() -> None:
    samples = [sample(f"s{i}", 0.0, cluster=f"c{i // 2}") for i in range(20)]
    figure = figure_of(ACCURACY, samples)
    assert figure.ci95 == wilson(0, 10).ci95
    assert "Wilson" in figure.rule


def test_a_recall_of_one_has_wilsons_interval_over_the_positives_alone() -> None:
    measure = with_(formula=RateAt(truth="truth", flagged="flagged", rate="recall"))
    samples = [SampleScore(f"s{i}", f"c{i}", {"truth": float(i < 5), "flagged": 1.0}) for i in range(50)]
    assert figure_of(measure, samples).ci95 == wilson(5, 5).ci95


def test_a_largest_value_has_no_interval() -> None:
    figure = figure_of(with_(formula=Peak(value="correct"), unit="MB"), [sample("a", 3.0), sample("b", 7.0)])
    assert (figure.value, figure.ci95) == (7.0, None)
    assert "no interval" in figure.rule


def test_without_samples_a_figure_is_undefined() -> None:
    figure = figure_of(ACCURACY, [])
    assert (figure.value, figure.ci95, figure.n) == (None, None, 0)


def test_two_samples_of_one_id_are_refused() -> None:
    with pytest.raises(MetricError, match="`a` occurs twice"):
        figures_of([ACCURACY], [sample("a", 1.0), sample("a", 0.0)])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(MetricError, match="`correct`"):
        sample("a", value)
