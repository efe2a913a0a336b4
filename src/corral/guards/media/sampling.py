"""Which frames of a clip are looked at.

Everything but ``Sampling.indices`` is a pure function of numbers. Under a cap the frames are spread over the whole clip
rather than taken from its beginning, or what comes late would never be looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from corral.core.errors import ConfigError
from corral.core.metric_inputs import Floats
from corral.data.media import OpenedMedia
from corral.data.media.frames import RgbImage, shown_at

SamplingMethod = Literal["uniform", "fps", "scene"]

HISTOGRAM_BINS: Final = 32
_LUMA: Final = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_HISTOGRAM_PIXELS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Sampling:
    """How frames are chosen.

    Attributes:
        method: ``uniform``: the centres of ``frames`` equal segments; ``fps``: ``rate`` frames a second; ``scene``: the
            middle frame of each scene, which needs every frame decoded once.
        frames: how many frames are taken, at most.
        rate: frames a second, for ``fps``.
        threshold: distance of luminance histograms, in [0, 1], above which a new scene begins.

    Raises:
        ConfigError: a value out of range.
    """

    method: SamplingMethod = "uniform"
    frames: int = 16
    rate: float = 1.0
    threshold: float = 0.3

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError(f"`{self.frames}` is below 1", where="sampling.frames")
        if not self.rate > 0:
            raise ConfigError(f"`{self.rate}` is not above 0", where="sampling.rate")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"`{self.threshold}` is outside [0, 1]", where="sampling.threshold")

    def indices(self, media: OpenedMedia) -> list[int]:
        """Numbers of the frames to look at, each once, ascending; at least one.

        Raises:
            MediaError: finding scenes met a broken frame or a limit.
        """
        count = len(media.starts_s)
        if count == 1:
            return [0]
        if self.method == "scene":
            histograms = [luminance_histogram(frame.rgb) for frame in media.frames(range(count))]
            return spread(scene_middles(count, scene_cuts(histograms, self.threshold)), self.frames)
        if self.method == "fps":
            times = rate_times(media.duration_s, self.rate, cap=self.frames)
        else:
            times = uniform_times(media.duration_s, self.frames)
        return shown_at(media.starts_s, times)


def uniform_times(duration_s: float, k: int) -> list[float]:
    """The centres of k equal segments: (i + 1/2) duration / k."""
    return [(index + 0.5) * duration_s / k for index in range(k)]


def rate_times(duration_s: float, rate: float, *, cap: int) -> list[float]:
    """0, 1/rate, 2/rate, ... before the end; when those are more than ``cap``, ``uniform_times`` of so many."""
    count = max(1, int(np.ceil(duration_s * rate - 1e-9)))
    return uniform_times(duration_s, cap) if count > cap else [index / rate for index in range(count)]


def luminance_histogram(rgb: RgbImage) -> Floats:
    """Share of pixels in each of 32 equal steps of luminance; of a large picture every n-th row and column."""
    step = max(1, int(np.sqrt(rgb.shape[0] * rgb.shape[1] / _HISTOGRAM_PIXELS)))
    luma = rgb[::step, ::step] @ _LUMA
    counts = np.bincount((luma.ravel() * (HISTOGRAM_BINS / 256)).astype(np.intp), minlength=HISTOGRAM_BINS)
    return np.asarray(counts[:HISTOGRAM_BINS] / luma.size, dtype=np.float64)


def histogram_distance(a: Floats, b: Floats) -> float:
    """Half the summed absolute difference: 0 for equal histograms, 1 for disjoint ones.

    It is the mean absolute difference times half the number of bins, so that thresholds do not depend on the bins.
    """
    return float(np.abs(a - b).sum() / 2)


def scene_cuts(histograms: Iterable[Floats], threshold: float) -> list[int]:
    """Numbers of the frames that begin a new scene, the first frame left out."""
    cuts: list[int] = []
    before: Floats | None = None
    for index, histogram in enumerate(histograms):
        if before is not None and histogram_distance(before, histogram) > threshold:
            cuts.append(index)
        before = histogram
    return cuts


def scene_middles(count: int, cuts: Sequence[int]) -> list[int]:
    """The middle frame of each scene of a clip of ``count`` frames; of two in the middle, the first."""
    starts = [0, *cuts]
    return [(start + end - 1) // 2 for start, end in zip(starts, [*cuts, count], strict=True)]


def spread(indices: Sequence[int], cap: int) -> list[int]:
    """At most ``cap`` of these, evenly spread: the centres of so many equal segments of the row."""
    if len(indices) <= cap:
        return list(indices)
    return [indices[(2 * segment + 1) * len(indices) // (2 * cap)] for segment in range(cap)]
