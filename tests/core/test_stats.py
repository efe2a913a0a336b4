import math
import time
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from corral.core import metrics, stats, weighted
from corral.core.errors import MetricError
from corral.core.stats import Estimate, cluster_bootstrap, mcnemar_exact, paired_cluster_bootstrap, wilson


@given(st.integers(1, 2000), st.data())
def test_wilson_agrees_with_scipy(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    ours = wilson(successes, n)
    theirs = scipy_stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert ours.ci95 == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.value == successes / n


def test_wilson_of_nothing_is_undefined_and_of_nonsense_refused() -> None:
    assert wilson(0, 0).value is None
    assert wilson(0, 0).ci95 is None
    with pytest.raises(MetricError, match="3 successes among 2"):
        wilson(3, 2)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 5))
def test_mcnemar_agrees_with_scipy_and_with_a_sum_of_binomials(only_a: int, only_b: int, both: int) -> None:
    right_a = [True] * only_a + [False] * only_b + [True] * both + [False] * both
    right_b = [False] * only_a + [True] * only_b + [True] * both + [False] * both
    result = mcnemar_exact(right_a, right_b)
    assert (result.only_a, result.only_b) == (only_a, only_b)
    n, fewer = only_a + only_b, min(only_a, only_b)
    assert result.p_value == pytest.approx(min(1.0, 2 * scipy_stats.binom.cdf(fewer, n, 0.5)), abs=1e-10)
    assert result.p_value == pytest.approx(min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n))


def coverage(hits: list[tuple[float | None, float | None]], truth: float) -> float:
    return float(np.mean([low is not None and high is not None and low <= truth <= high for low, high in hits]))


def test_with_repeated_prompts_rows_under_cover_and_clusters_do_not() -> None:
    """A false-positive rate of 0.3 over 100 prompts, 300 simulated test sets."""
    generator, truth = np.random.default_rng(7), 0.3
    by_row, by_prompt = [], []
    for _ in range(300):
        clusters = np.repeat(np.arange(100), generator.integers(1, 10, 100))
        flagged = (generator.random(100) < truth)[clusters]
        statistic = weighted.rate(np.zeros(len(clusters)), flagged, "fpr")
        rows = cluster_bootstrap(statistic, range(len(clusters)), replicates=200)
        prompts = cluster_bootstrap(statistic, clusters, replicates=200)
        by_row.append((rows.low, rows.high))
        by_prompt.append((prompts.low, prompts.high))
    assert coverage(by_row, truth) < 0.75  # the closed form for this design effect of 6.3 is 0.56
    assert 0.91 <= coverage(by_prompt, truth) <= 0.98


def test_the_interval_of_a_ranking_covers_its_closed_form() -> None:
    """AUROC of two unit normals one apart is Phi(1/sqrt(2)); 150 simulated test sets of repeated prompts."""
    generator, truth = np.random.default_rng(3), NormalDist().cdf(1 / math.sqrt(2))
    by_row, by_prompt = [], []
    for _ in range(150):
        labels = np.arange(120) % 2
        scores = generator.normal(labels, 1.0)
        clusters = np.repeat(np.arange(120), generator.integers(1, 8, 120))
        statistic = weighted.auroc(labels[clusters], scores[clusters])
        rows = cluster_bootstrap(statistic, range(len(clusters)), replicates=150)
        prompts = cluster_bootstrap(statistic, clusters, replicates=150)
        by_row.append((rows.low, rows.high))
        by_prompt.append((prompts.low, prompts.high))
    assert coverage(by_row, truth) < 0.8
    assert 0.9 <= coverage(by_prompt, truth) <= 0.99


def test_the_bootstrap_is_that_of_copied_rows() -> None:
    """Brute force: draw the same clusters, copy their rows, compute average precision on the copies."""
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, 40), generator.integers(0, 6, 40) / 6
    clusters = generator.integers(0, 15, 40)
    numbers = {key: i for i, key in enumerate(dict.fromkeys(clusters.tolist()))}
    estimate = cluster_bootstrap(weighted.average_precision(labels, scores), clusters, replicates=300, seed=5)
    picks = np.random.default_rng(5).integers(len(numbers), size=(300, len(numbers)))
    members = {numbers[key]: np.flatnonzero(clusters == key) for key in numbers}
    copies = [np.concatenate([members[pick] for pick in row]) for row in picks]
    drawn = [metrics.average_precision(labels[rows], scores[rows]) for rows in copies]
    assert estimate.ci95 == pytest.approx(np.quantile(np.array(drawn, dtype=float), [0.025, 0.975]), abs=1e-12)
    assert estimate.value == metrics.average_precision(labels, scores)
    assert (estimate.n, estimate.clusters) == (40, len(numbers))


def test_equal_seeds_give_equal_intervals_and_the_size_of_a_chunk_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    statistic, clusters = weighted.mean(np.arange(50.0)), [i // 3 for i in range(50)]
    first = cluster_bootstrap(statistic, clusters, seed=1)
    assert cluster_bootstrap(statistic, clusters, seed=1) == first
    assert cluster_bootstrap(statistic, clusters, seed=2) != first
    monkeypatch.setattr(stats, "_CHUNK_WEIGHTS", 5000)
    assert cluster_bootstrap(statistic, clusters, seed=1) == first


def test_the_order_of_cluster_names_does_not_matter_only_their_partition() -> None:
    statistic = weighted.mean([0.0, 1.0, 2.0, 5.0])
    assert cluster_bootstrap(statistic, ["b", "b", "a", "c"]) == cluster_bootstrap(statistic, np.array([0, 0, 1, 2]))


def test_a_paired_difference_of_equal_systems_is_exactly_zero() -> None:
    labels, scores = [0, 1, 0, 1, 1, 0] * 10, np.linspace(0, 1, 60)
    statistic = weighted.auroc(labels, scores)
    difference = paired_cluster_bootstrap(statistic, statistic, range(60))
    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_a_paired_difference_is_narrower_than_unpaired_ones() -> None:
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 2, 300)
    shared = labels + generator.normal(0, 1.5, 300)
    ours = weighted.auroc(labels, shared + 0.3 * labels)
    theirs = weighted.auroc(labels, shared)
    difference = paired_cluster_bootstrap(ours, theirs, range(300), rule="ours - theirs")
    single = cluster_bootstrap(ours, range(300))
    assert difference.ci95 is not None
    assert single.ci95 is not None
    assert difference.value == pytest.approx(
        metrics.auroc(labels, shared + 0.3 * labels) - metrics.auroc(labels, shared)  # type: ignore[operator]
    )
    assert difference.ci95[1] - difference.ci95[0] < (single.ci95[1] - single.ci95[0]) / 2
    assert difference.rule == "ours - theirs"


def test_an_interval_is_withheld_when_too_many_replicates_are_undefined() -> None:
    labels, scores = [1] + [0] * 29, np.linspace(1, 0, 30)
    one_positive = cluster_bootstrap(weighted.average_precision(labels, scores), range(30))
    assert one_positive.value == 1.0
    assert one_positive.ci95 is None
    # the positive is missed by a replicate with probability (29/30)^30 = 0.36
    assert one_positive.undefined / stats.REPLICATES == pytest.approx((29 / 30) ** 30, abs=0.05)
    four = cluster_bootstrap(weighted.average_precision([1] * 6 + [0] * 24, scores), range(30))
    assert four.ci95 is not None
    assert 0 < four.undefined < 0.05 * stats.REPLICATES


def test_no_interval_without_two_clusters_or_without_a_value() -> None:
    statistic = weighted.mean([0.0, 1.0])
    assert cluster_bootstrap(statistic, ["a", "a"]) == Estimate(0.5, None, None, 2, 1)
    assert cluster_bootstrap(weighted.auroc([1, 1], [0.1, 0.2]), ["a", "b"]) == Estimate(None, None, None, 2, 2)
    assert cluster_bootstrap(statistic, [], unscored=4, rule="r") == Estimate(None, None, None, 0, 0, 4, "r")


def test_an_estimate_is_written_with_its_interval_and_what_it_rests_on() -> None:
    assert wilson(5, 10, unscored=1).to_json() == {
        "value": 0.5,
        "ci95": [pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4)],
        "n": 10,
        "clusters": 10,
        "unscored": 1,
        "rule": "wilson",
    }
    assert Estimate(None, None, None, 0, 0).to_json()["ci95"] is None


def test_two_thousand_replicates_of_five_thousand_rows_take_seconds() -> None:
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, 5000), generator.random(5000)
    start = time.process_time()
    cluster_bootstrap(weighted.average_precision(labels, scores), generator.integers(0, 3000, 5000))
    assert time.process_time() - start < 10
