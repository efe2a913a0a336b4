"""How far two lists of scores lie apart; golden values worked out by hand."""

from __future__ import annotations

import pytest

from corral.bench.guard_throughput.accuracy import agreement, compare, max_delta, spread


def test_a_score_at_the_threshold_is_unsafe() -> None:
    assert agreement([0.5, 0.4, 0.6], [0.6, 0.6, 0.6]) == pytest.approx(2 / 3)


def test_the_largest_difference_counts_in_both_directions() -> None:
    assert max_delta([0.1, 0.9], [0.15, 0.7]) == pytest.approx(0.2)


def test_scores_that_all_lie_on_one_side_agree_at_a_half_but_not_at_the_median() -> None:
    found = compare([0.1, 0.3, 0.2, 0.4], [0.1, 0.2, 0.3, 0.4])
    assert found["label_agreement"] == 1.0
    assert found["label_agreement_at_median"] == 0.5
    assert (found["unsafe"], found["near_threshold"]) == (0, 0)


def test_scores_near_a_half_are_counted() -> None:
    assert compare([0.5] * 4, [0.481, 0.519, 0.479, 0.9])["near_threshold"] == 2


def test_the_spread_is_that_of_percentiles() -> None:
    found = spread([i / 100 for i in range(101)])
    assert (found["minimum"], found["maximum"]) == (0.0, 1.0)
    assert [found[name] for name in ("p05", "p25", "p50", "p95")] == pytest.approx([0.05, 0.25, 0.5, 0.95])
    assert spread([0.3])["p50"] == 0.3
