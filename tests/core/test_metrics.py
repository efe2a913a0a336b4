import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from corral.core import metrics
from corral.core.errors import MetricError
from corral.core.metrics import Counts

# Few distinct scores make ties the rule; floats of any size make them the exception.
TIED = st.integers(0, 4).map(lambda k: k / 4)
SPREAD = st.floats(0, 1, allow_subnormal=False)


@st.composite
def labelled(draw: st.DrawFn, scores: st.SearchStrategy[float] = TIED | SPREAD) -> tuple[Any, Any]:
    """Labels with both classes, and scores."""
    n = draw(st.integers(2, 40))
    labels = draw(hnp.arrays(np.int8, n, elements=st.integers(0, 1)))
    labels[:2] = [0, 1]
    return labels, draw(hnp.arrays(np.float64, n, elements=scores))


def heavily_tied(seed: int, n: int = 500, values: int = 5) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 2, n), generator.integers(0, values, n) / values


@pytest.mark.parametrize("values", [2, 5, 10**9])
@pytest.mark.parametrize("seed", range(5))
def test_rankings_agree_with_scikit_learn_on_random_and_tied_scores(seed: int, values: int) -> None:
    labels, scores = heavily_tied(seed, values=values)
    assert metrics.average_precision(labels, scores) == pytest.approx(
        sk.average_precision_score(labels, scores), abs=1e-12
    )
    assert metrics.auroc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)


@given(labelled())
def test_rankings_agree_with_scikit_learn(data: tuple[Any, Any]) -> None:
    labels, scores = data
    assert metrics.average_precision(labels, scores) == pytest.approx(
        sk.average_precision_score(labels, scores), abs=1e-12
    )
    assert metrics.auroc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)


@given(labelled(), st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0]))
def test_decisions_agree_with_scikit_learn(data: tuple[Any, Any], threshold: float) -> None:
    labels, scores = data
    counts = metrics.confusion_at(labels, scores, threshold)
    predicted = scores >= threshold
    assert [counts.tn, counts.fp, counts.fn, counts.tp] == sk.confusion_matrix(labels, predicted).ravel().tolist()
    assert counts.f1 == pytest.approx(sk.f1_score(labels, predicted), abs=1e-12)
    assert counts.recall == pytest.approx(sk.recall_score(labels, predicted), abs=1e-12)
    assert counts.accuracy == pytest.approx(sk.accuracy_score(labels, predicted), abs=1e-12)
    assert counts.fnr == pytest.approx(1 - sk.recall_score(labels, predicted), abs=1e-12)
    assert counts.fpr == pytest.approx(1 - sk.recall_score(labels, predicted, pos_label=0), abs=1e-12)
    if predicted.any():
        assert counts.precision == pytest.approx(sk.precision_score(labels, predicted), abs=1e-12)
    assert metrics.flag_all_f1(labels) == pytest.approx(sk.f1_score(labels, np.ones(len(labels))), abs=1e-12)


def test_trapezoids_would_give_another_figure_with_ties() -> None:
    labels, scores = [1, 0, 1, 0], [0.9, 0.9, 0.1, 0.1]
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    assert metrics.average_precision(labels, scores) == 0.5  # by hand: (1/2)(1/2) + (1/2)(2/4)
    assert sk.auc(recall, precision) != 0.5


@given(labelled(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(data: tuple[Any, Any], random: Any) -> None:
    labels, scores = data
    order = list(range(len(labels)))
    random.shuffle(order)
    for metric in (metrics.average_precision, metrics.auroc, metrics.calibration_error, metrics.brier):
        assert metric(labels[order], scores[order]) == pytest.approx(metric(labels, scores), abs=1e-12)


@given(labelled())
def test_unknown_labels_are_left_out(data: tuple[Any, Any]) -> None:
    labels, scores = data
    with_unknown, more_scores = [*labels.tolist(), None, None], [*scores.tolist(), 0.0, 1.0]
    two: list[Callable[[Any, Any], Any]] = [
        metrics.average_precision,
        metrics.auroc,
        metrics.brier,
        metrics.calibration_error,
        metrics.select_threshold,
        metrics.threshold_at_fpr,
        metrics.recall_at_fpr,
        metrics.reliability,
        lambda y, s: metrics.confusion_at(y, s, 0.5),
    ]
    for metric in two:
        assert metric(with_unknown, more_scores) == metric(labels, scores)
    assert metrics.positive_rate(with_unknown) == metrics.positive_rate(labels)
    assert metrics.flag_all_f1(with_unknown) == metrics.flag_all_f1(labels)


def test_what_is_undefined_is_none_and_never_zero() -> None:
    assert metrics.average_precision([0, 0], [0.1, 0.2]) is None
    assert metrics.average_precision([], []) is None
    assert metrics.auroc([1, 1], [0.1, 0.2]) is None
    assert metrics.auroc([0, 0], [0.1, 0.2]) is None
    assert metrics.flag_all_f1([0, 0]) is None
    assert metrics.positive_rate([None]) is None
    assert metrics.brier([], []) is None
    assert metrics.calibration_error([None], [0.5]) is None
    assert metrics.reliability([], []) == []
    assert metrics.select_threshold([0], [0.5]) is None
    assert metrics.threshold_at_fpr([1], [0.5]) is None
    assert metrics.threshold_at_fpr([], []) is None
    assert metrics.attack_success_rate([]) is None


def test_rates_with_an_empty_denominator_are_none() -> None:
    nothing_flagged = Counts(tp=0, fp=0, fn=2, tn=3)
    assert (nothing_flagged.precision, nothing_flagged.recall, nothing_flagged.f1) == (None, 0.0, 0.0)
    no_positives = Counts(tp=0, fp=1, fn=0, tn=3)
    assert (no_positives.recall, no_positives.f1, no_positives.fnr, no_positives.fpr) == (None, None, None, 0.25)
    nothing = Counts(0, 0, 0, 0)
    assert (nothing.accuracy, nothing.fpr, nothing.n) == (None, None, 0)


def test_on_an_all_positive_set_f1_is_a_function_of_recall() -> None:
    counts = metrics.confusion([1] * 5, [1, 1, 1, 0, 0])
    assert counts.f1 == pytest.approx(2 * 0.6 / 1.6, abs=1e-15)


@pytest.mark.parametrize(
    ("positives", "n", "floor", "expected"), [(5, 20, 0.25, 0.35254), (166, 7394, 0.02245, 0.02357)]
)
def test_the_floor_and_the_random_expectation_have_the_published_values(
    positives: int, n: int, floor: float, expected: float
) -> None:
    labels = [1] * positives + [0] * (n - positives)
    assert metrics.positive_rate(labels) == pytest.approx(floor, abs=5e-6)
    assert metrics.average_precision(labels, [0.3] * n) == metrics.positive_rate(labels)
    assert metrics.expected_random_ap(positives, n) == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize(("positives", "n"), [(1, 1), (1, 2), (2, 5), (3, 6), (6, 6), (1, 7)])
def test_the_random_expectation_is_the_average_over_all_orders(positives: int, n: int) -> None:
    orders = list(itertools.combinations(range(n), positives))  # where the positives stand; all equally likely
    scores = np.arange(n, 0, -1.0)
    average = math.fsum(
        metrics.average_precision([int(i in order) for i in range(n)], scores) or 0.0 for order in orders
    ) / len(orders)
    assert metrics.expected_random_ap(positives, n) == pytest.approx(average, abs=1e-12)


def test_the_random_expectation_needs_positives_that_fit() -> None:
    assert metrics.expected_random_ap(0, 5) is None
    with pytest.raises(MetricError, match="6 positives among 5 items"):
        metrics.expected_random_ap(6, 5)


def test_lift_runs_from_the_floor_to_one() -> None:
    assert metrics.lift(0.25, 0.25) == 0.0
    assert metrics.lift(1.0, 0.25) == 1.0
    assert metrics.lift(0.625, 0.25) == 0.5
    assert metrics.lift(1.0, 1.0) is None


def operating_points(labels: Any, scores: Any) -> list[tuple[float, Counts]]:
    """Brute force: every score, and a number above all, as threshold."""
    thresholds = [*sorted(set(scores.tolist())), float(np.nextafter(scores.max(), np.inf))]
    return [(threshold, metrics.confusion_at(labels, scores, threshold)) for threshold in thresholds]


@given(labelled(), st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 1.0]))
def test_the_threshold_at_a_rate_is_the_lowest_that_keeps_it(data: tuple[Any, Any], limit: float) -> None:
    labels, scores = data
    lowest = min(t for t, counts in operating_points(labels, scores) if (counts.fpr or 0.0) <= limit)
    assert metrics.threshold_at_fpr(labels, scores, limit) == lowest


@given(labelled())
def test_the_selected_threshold_has_the_largest_f1_and_is_the_highest_of_equals(data: tuple[Any, Any]) -> None:
    labels, scores = data
    best = max(counts.f1 or 0.0 for _, counts in operating_points(labels, scores))
    highest = max(t for t, counts in operating_points(labels, scores) if counts.f1 == best)
    assert metrics.select_threshold(labels, scores) == highest


@pytest.mark.parametrize("values", [7, 10**9])
@pytest.mark.parametrize("negatives", [30, 99, 100, 350])
@pytest.mark.parametrize("limit", [0.01, 0.05])
def test_recall_at_a_false_positive_rate_agrees_with_brute_force(negatives: int, values: int, limit: float) -> None:
    generator = np.random.default_rng(negatives)
    labels = np.r_[np.zeros(negatives), np.ones(60)]
    scores = generator.integers(0, values, len(labels)) / values + 0.3 * labels
    found = metrics.recall_at_fpr(labels, scores, limit)
    best = max(c.recall or 0.0 for _, c in operating_points(labels, scores) if (c.fpr or 0.0) <= limit)
    assert found.value == best
    assert found.negatives == negatives
    assert found.coarse == (negatives < 100)
    assert found.threshold is not None
    assert metrics.confusion_at(labels, scores, found.threshold).fpr == found.fpr


def test_recall_at_a_false_positive_rate_needs_thirty_negatives_and_a_positive() -> None:
    few = metrics.recall_at_fpr([0] * 29 + [1], [0.0] * 29 + [1.0])
    assert (few.value, few.negatives, few.coarse) == (None, 29, True)
    assert metrics.recall_at_fpr([0] * 40, [0.0] * 40).value is None


@pytest.mark.parametrize("negatives", [100, 300, 700, 2900, 5700])
def test_exactly_one_in_a_hundred_false_positives_is_within_one_percent(negatives: int) -> None:
    labels = [0] * negatives + [1]
    scores = [1.0] * (negatives // 100) + [0.0] * (negatives - negatives // 100) + [1.0]
    assert metrics.recall_at_fpr(labels, scores).value == 1.0


def test_brier_agrees_with_scikit_learn() -> None:
    labels, scores = heavily_tied(0)
    assert metrics.brier(labels, scores) == pytest.approx(sk.brier_score_loss(labels, scores), abs=1e-12)


def test_the_bins_of_distinct_scores_have_equal_mass() -> None:
    generator = np.random.default_rng(1)
    labels, scores = generator.integers(0, 2, 150), generator.permutation(150) / 150
    bins = metrics.reliability(labels, scores)
    assert [b.n for b in bins] == [10] * 15
    order = np.argsort(scores).reshape(15, 10)  # brute force: ten rows a bin
    assert [b.positive_rate for b in bins] == pytest.approx(labels[order].mean(axis=1).tolist())
    assert [b.mean_probability for b in bins] == pytest.approx(scores[order].mean(axis=1).tolist())
    expected = np.abs(labels[order].mean(axis=1) - scores[order].mean(axis=1)).mean()
    assert metrics.calibration_error(labels, scores) == pytest.approx(expected, abs=1e-12)


@given(labelled())
def test_the_calibration_error_is_the_mean_gap_of_its_bins(data: tuple[Any, Any]) -> None:
    labels, scores = data
    bins = metrics.reliability(labels, scores)
    assert sum(b.n for b in bins) == len(labels)
    gap = sum(b.n * abs(b.mean_probability - b.positive_rate) for b in bins) / len(labels)
    assert metrics.calibration_error(labels, scores) == pytest.approx(gap, abs=1e-12)


def test_a_constant_score_is_off_by_its_distance_from_the_positive_rate() -> None:
    assert metrics.calibration_error([1, 0, 0, 0], [0.75] * 4) == pytest.approx(0.5)


# Six items and three categories, by hand. Item 3 is harmful without a category; item 5's guns label is unknown.
#            hate  guns  drugs
CATEGORIES = [
    [1, 0, 0],
    [0, 1, 0],
    [0, 1, 1],
    [0, 0, 0],
    [0, 0, 0],
    [0, None, 0],
]
HARMFUL = [1, 1, 1, 1, 0, 0]
SCORES = np.array(
    [
        [0.9, 0.2, 0.1],
        [0.3, 0.7, 0.0],
        [0.1, 0.6, 0.8],
        [0.4, 0.65, 0.2],
        [0.2, 0.1, 0.3],
        [0.1, 0.5, 0.1],
    ]
)
GUNS_LABELS = [row[1] for row in CATEGORIES]
GUNS_SCORES = SCORES[:, 1]


def test_max_all_takes_the_highest_score_and_any_positive_category() -> None:
    overall = metrics.max_all(CATEGORIES, SCORES)
    assert overall.labels.tolist() == [1, 1, 1, 0, 0]  # item 5 could be a guns item
    assert overall.scores.tolist() == [0.9, 0.7, 0.8, 0.65, 0.3]
    assert overall.rows.tolist() == [0, 1, 2, 3, 4]


def test_one_vs_all_counts_other_harms_as_negatives() -> None:
    guns = metrics.one_vs_all(GUNS_LABELS, GUNS_SCORES)
    assert guns.labels.tolist() == [0, 1, 1, 0, 0]
    assert guns.rows.tolist() == [0, 1, 2, 3, 4]
    # ranks: item 1 (.7, positive), item 3 (.65), item 2 (.6, positive), ...
    assert metrics.average_precision(guns.labels, guns.scores) == pytest.approx((1 + 2 / 3) / 2)


def test_one_vs_benign_drops_other_harms() -> None:
    guns = metrics.one_vs_benign(GUNS_LABELS, GUNS_SCORES, HARMFUL)
    assert guns.labels.tolist() == [1, 1, 0]
    assert guns.rows.tolist() == [1, 2, 4]
    assert metrics.average_precision(guns.labels, guns.scores) == 1.0


@given(labelled(), st.data())
def test_dropping_other_harms_never_lowers_average_precision(data: tuple[Any, Any], draw: st.DataObject) -> None:
    labels, scores = data
    harmful = draw.draw(hnp.arrays(np.int8, len(labels), elements=st.sampled_from([0, 1, -1]))) | (labels == 1)
    benign = metrics.one_vs_benign(labels, scores, harmful)
    everything = metrics.one_vs_all(labels, scores)
    flattered = metrics.average_precision(benign.labels, benign.scores)
    honest = metrics.average_precision(everything.labels, everything.scores)
    assert flattered is not None
    assert honest is not None
    assert flattered >= honest - 1e-12


FLAGS = hnp.arrays(np.bool_, 12)


@given(FLAGS, FLAGS)
def test_delivered_answers_obey_the_identities_of_a_guarded_system(replies: Any, flagged: Any) -> None:
    asr, rta = metrics.attack_success_rate, metrics.refusal_to_answer
    assert asr(replies, flagged) == np.mean(replies & ~flagged)
    assert rta(replies, flagged) == np.mean(replies | flagged)
    assert asr(replies) == asr(replies, [False] * 12) == np.mean(replies)
    assert rta(replies) == rta(replies, [False] * 12) == np.mean(replies)
    assert asr(replies, [True] * 12) == 0.0
    assert rta(replies, [True] * 12) == 1.0
    assert (asr(replies, flagged) or 0.0) <= (asr(replies) or 0.0)
    assert (rta(replies, flagged) or 0.0) >= (rta(replies) or 0.0)
    # what does not comply refuses: on one set of prompts the two rates make a whole
    assert (asr(replies, flagged) or 0.0) + (rta(~replies, flagged) or 0.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.average_precision([1, 0], [0.1]),
        lambda: metrics.average_precision([1, 0], [0.1, float("nan")]),
        lambda: metrics.auroc([1, 2], [0.1, 0.2]),
        lambda: metrics.brier([1, 0], [0.1, 1.2]),
        lambda: metrics.confusion([1, 0], [True]),
        lambda: metrics.confusion([1, 0], [True, None]),
        lambda: metrics.max_all([1, 0], [0.1, 0.2]),
        lambda: metrics.max_all([[1, 0]], [[0.1]]),
        lambda: metrics.one_vs_benign([1, 0], [0.1, 0.2], [1]),
        lambda: metrics.attack_success_rate([True], [True, False]),
    ],
)
def test_input_that_no_metric_is_defined_on_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(MetricError):
        call()
