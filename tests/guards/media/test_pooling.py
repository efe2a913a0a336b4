from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError, MetricError
from corral.guards.media.pooling import Pooling, clip_threshold, independent_flag_rate

scores = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(scores)
def test_max_is_the_highest(values: list[float]) -> None:
    assert Pooling("max")(values) == max(values)


@given(scores, st.integers(1, 8))
def test_top_mean_is_the_highest_mean_of_any_m_frames(values: list[float], m: int) -> None:
    m = min(m, len(values))
    brute = max(sum(chosen) / m for chosen in combinations(values, m))
    assert Pooling("top_mean", m)(values) == pytest.approx(brute)


@given(scores, st.integers(1, 8), st.floats(0, 1))
def test_m_of_k_flags_exactly_when_m_frames_reach_the_threshold(values: list[float], m: int, threshold: float) -> None:
    flagged = sum(value >= threshold for value in values) >= min(m, len(values))
    assert (Pooling("m_of_k", m)(values) >= threshold) == flagged


@given(scores, st.randoms())
def test_the_order_of_frames_does_not_matter(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for rule in ("max", "top_mean", "m_of_k"):
        assert Pooling(rule, 2)(values) == pytest.approx(Pooling(rule, 2)(shuffled))


def test_independent_rates_are_those_of_the_closed_forms() -> None:
    assert independent_flag_rate(0.01, 60) == pytest.approx(1 - 0.99**60)
    assert round(independent_flag_rate(0.01, 60), 3) == 0.453
    assert round(independent_flag_rate(0.01, 60, 2), 3) == 0.121


@pytest.mark.parametrize(("k", "m"), [(1, 1), (5, 1), (12, 1), (12, 2), (30, 3)])
def test_independent_rates_are_those_of_a_simulation(k: int, m: int) -> None:
    frames = np.random.default_rng(0).random((20_000, k))
    pooled = np.array([Pooling("m_of_k", m)(row) for row in frames[:4000].tolist()])
    rate = independent_flag_rate(0.1, k, m)
    assert (pooled >= 0.9).mean() == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / 4000))


@pytest.mark.parametrize("rule", ["max", "m_of_k", "top_mean"])
@pytest.mark.parametrize("k", [4, 32])
def test_a_calibrated_threshold_holds_the_rate_on_other_clips(rule: str, k: int) -> None:
    def clips(seed: int) -> list[float]:
        frames = np.random.default_rng(seed).random((4000, k))
        return [Pooling(rule, 2)(row) for row in frames.tolist()]  # type: ignore[arg-type]

    threshold = clip_threshold(clips(1), max_fpr=0.05)
    assert np.mean(np.array(clips(2)) >= threshold) == pytest.approx(0.05, abs=0.015)


def test_nothing_to_pool_and_no_clips_are_errors() -> None:
    with pytest.raises(MetricError):
        Pooling()([])
    with pytest.raises(MetricError):
        clip_threshold([], max_fpr=0.1)
    with pytest.raises(ConfigError):
        Pooling("max", 0)
