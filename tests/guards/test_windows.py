"""Windows cover every token, overlap as promised, and lose no trigger."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.core.errors import ConfigError
from corral.guards.windows import judged_windows, max_over_windows, window_spans

SIZES = st.integers(1, 40).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


@settings(deadline=None)
@given(st.integers(0, 400), SIZES)
def test_every_token_is_covered_and_neighbours_overlap(length, sizes):
    size, overlap = sizes
    spans = window_spans(length, size, overlap)
    covered = {i for start, stop in spans for i in range(start, stop)}
    assert covered == set(range(length))
    assert all(0 < stop - start <= size for start, stop in spans)
    for (_, stop), (next_start, _) in itertools.pairwise(spans):
        assert stop - next_start >= overlap


@settings(deadline=None)
@given(st.data())
def test_a_trigger_planted_at_any_offset_lies_whole_in_some_window(data):
    size, overlap = data.draw(SIZES)
    trigger = data.draw(st.integers(1, overlap + 1))
    length = data.draw(st.integers(trigger, 300))
    offset = data.draw(st.integers(0, length - trigger))
    assert any(start <= offset and offset + trigger <= stop for start, stop in window_spans(length, size, overlap))


def test_a_trigger_two_longer_than_the_overlap_can_be_split():
    spans = window_spans(20, 8, 2)
    assert not any(start <= 5 and stop >= 5 + 4 for start, stop in spans)


def test_spans_by_hand():
    assert window_spans(0, 4, 1) == []
    assert window_spans(4, 4, 1) == [(0, 4)]
    assert window_spans(9, 4, 1) == [(0, 4), (3, 7), (5, 9)]


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (4, 4), (4, -1), (-3, 0)])
def test_impossible_windows_are_refused(size, overlap):
    with pytest.raises(ConfigError):
        window_spans(10, size, overlap)


@settings(deadline=None)
@given(st.data())
def test_judged_windows_hold_the_whole_target_and_the_newest_context(data):
    size = data.draw(st.integers(2, 40))
    overlap = data.draw(st.integers(0, size - 2))
    min_context = data.draw(st.integers(0, size - overlap - 1))
    context = tuple(range(-data.draw(st.integers(0, 80)), 0))
    target = tuple(range(data.draw(st.integers(1, 150))))
    judged = judged_windows(context, target, size=size, overlap=overlap, min_context=min_context)
    seen = set()
    for window in judged.windows:
        assert len(window.ids) <= size
        assert window.stop - window.start > 0
        assert window.stop == len(window.ids)
        seen.update(window.ids[window.start : window.stop])
        before = window.ids[: window.start]
        assert before == context[len(context) - len(before) :]
        assert len(before) >= min(min_context, len(context))
        assert len(context) - len(before) == judged.context_dropped
    assert seen == set(target)
    if len(context) + len(target) <= size:
        assert len(judged.windows) == 1
        assert judged.context_dropped == 0


def test_context_that_does_not_fit_is_counted():
    judged = judged_windows(range(100), range(100, 130), size=40, overlap=4, min_context=16)
    assert judged.context_dropped == 84
    assert [w.ids[:16] for w in judged.windows] == [tuple(range(84, 100))] * 2
    short = judged_windows(range(100), range(100, 105), size=40, overlap=4, min_context=16)
    assert short.context_dropped == 65
    assert len(short.windows) == 1


def test_context_and_overlap_that_leave_no_room_are_refused():
    with pytest.raises(ConfigError, match="min_context"):
        judged_windows([1], [2], size=8, overlap=4, min_context=4)


def test_maximum_over_windows_is_per_score():
    pooled = max_over_windows(np.array([[0.1, 3.0], [2.0, -1.0]]))
    assert pooled.tolist() == [2.0, 3.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_broken_window_is_not_outvoted(bad):
    pooled = max_over_windows(np.array([[bad, 3.0], [2.0, -1.0]]))
    assert np.isnan(pooled[0])
    assert pooled[1] == 3.0
