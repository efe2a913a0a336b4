from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError
from corral.data.media import TimedFrame
from corral.data.media.kinds import Modality
from corral.guards.media.sampling import (
    Sampling,
    histogram_distance,
    luminance_histogram,
    rate_times,
    scene_cuts,
    scene_middles,
    spread,
    uniform_times,
)


@dataclass
class Clip:
    """A clip in memory: the grey of each frame and when it is shown."""

    greys: Sequence[int]
    starts_s: Sequence[float]
    duration_s: float
    kind: str = "made"
    modality: Modality = "clip"
    width: int = 4
    height: int = 4

    def frames(self, indices: Sequence[int]) -> Iterator[TimedFrame]:
        for index in indices:
            yield TimedFrame(self.starts_s[index], np.full((4, 4, 3), self.greys[index], np.uint8))


def steady(count: int, rate: float = 10.0) -> Clip:
    return Clip([0] * count, [index / rate for index in range(count)], count / rate)


@pytest.mark.parametrize("k", range(1, 11))
def test_uniform_times_are_the_centres_of_equal_segments(k: int) -> None:
    # closed form: segments of 12/k seconds, so the centres differ by 12/k and the first is at half of that
    times = uniform_times(12.0, k)
    assert times == pytest.approx(np.arange(k) * 12 / k + 6 / k)
    assert np.mean(times) == pytest.approx(6.0)


@pytest.mark.parametrize("k", range(1, 11))
def test_uniform_frames_of_a_steady_clip_are_those_shown_at_the_centres(k: int) -> None:
    expected = sorted({int((2 * i + 1) * 60 / (2 * k)) for i in range(k)})  # frame 10 t of 6 seconds at 10 a second
    assert Sampling(frames=k).indices(steady(60)) == expected


def test_a_clip_of_fewer_frames_than_asked_for_gives_each_once() -> None:
    assert Sampling(frames=10).indices(steady(4)) == [0, 1, 2, 3]
    assert Sampling(frames=10).indices(steady(1)) == [0]


def test_a_variable_frame_rate_is_sampled_by_time_and_not_by_number() -> None:
    clip = Clip([0] * 6, [0.0, 0.1, 0.2, 0.3, 5.0, 9.0], 10.0)
    assert Sampling(frames=5).indices(clip) == [3, 4, 5]  # at 1, 3, 5, 7 and 9 seconds


@given(st.floats(0.01, 100), st.floats(0.1, 30), st.integers(1, 50))
def test_rate_times_are_inside_of_the_clip_and_within_the_cap(duration: float, rate: float, cap: int) -> None:
    times = rate_times(duration, rate, cap=cap)
    assert 1 <= len(times) <= cap
    assert all(0 <= time < duration for time in times)
    if len(times) < cap:
        assert np.diff(times) == pytest.approx([1 / rate] * (len(times) - 1))


def test_a_cap_spreads_the_frames_over_the_whole_clip() -> None:
    assert rate_times(100.0, 10.0, cap=4) == [12.5, 37.5, 62.5, 87.5]
    assert spread(range(100), 4) == [12, 37, 62, 87]
    assert spread([3, 5], 4) == [3, 5]


def test_scenes_are_cut_where_the_luminance_jumps() -> None:
    clip = Clip([10] * 4 + [200] * 3 + [90] * 5, [index / 10 for index in range(12)], 1.2)
    histograms = [luminance_histogram(frame.rgb) for frame in clip.frames(range(12))]
    assert scene_cuts(histograms, 0.3) == [4, 7]
    assert scene_middles(12, [4, 7]) == [1, 5, 9]
    assert Sampling("scene").indices(clip) == [1, 5, 9]
    assert Sampling("scene", frames=1).indices(clip) == [5]


def test_histogram_distance_is_0_for_equal_and_1_for_disjoint_pictures() -> None:
    black, white = (luminance_histogram(np.full((8, 8, 3), grey, np.uint8)) for grey in (0, 255))
    half = luminance_histogram(np.concatenate([np.zeros((4, 8, 3)), np.full((4, 8, 3), 255)]).astype(np.uint8))
    assert histogram_distance(black, black) == 0
    assert histogram_distance(black, white) == pytest.approx(1)
    assert histogram_distance(black, half) == pytest.approx(0.5)


def test_values_out_of_range_are_refused() -> None:
    for wrong in ({"frames": 0}, {"rate": 0.0}, {"threshold": 2.0}):
        with pytest.raises(ConfigError):
            Sampling(**wrong)  # type: ignore[arg-type]
