"""Opened media: what it is, when its frames are shown, and the frames themselves, decoded one at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from corral.data.media.kinds import Modality

RgbImage: TypeAlias = npt.NDArray[np.uint8]
"""(H, W, 3) red, green, blue."""


@dataclass(frozen=True, slots=True, eq=False)
class TimedFrame:
    """A picture and the second at which it is first shown."""

    time_s: float
    rgb: RgbImage


class OpenedMedia(Protocol):
    """An image or clip within its limits, whose frames can be asked for.

    Frames are decoded as they are taken, one in memory at a time.
    """

    @property
    def kind(self) -> str:
        """Format by content: ``png``, ``jpeg``, ``webp``, ``gif``, ``mp4``, ``matroska``, ``avi``."""

    @property
    def modality(self) -> Modality:
        """``clip`` when there is more than one frame."""

    @property
    def width(self) -> int:
        """Pixels, as stored."""

    @property
    def height(self) -> int:
        """Pixels, as stored."""

    @property
    def starts_s(self) -> Sequence[float]:
        """Second at which each frame is first shown, ascending from 0."""

    @property
    def duration_s(self) -> float:
        """Seconds until the last frame ends; 0 for a still image."""

    def frames(self, indices: Sequence[int]) -> Iterator[TimedFrame]:
        """The frames of these numbers, which ascend.

        Raises:
            MediaError: a frame is broken, or the limits do not allow to reach it.
        """


def shown_at(starts_s: Sequence[float], times_s: Sequence[float]) -> list[int]:
    """Numbers of the frames that are shown at these times, each once, ascending.

    A time before the first frame or after the last stands for that frame; so a clip shorter than the number of times
    gives fewer frames than times.
    """
    return sorted({max(0, bisect_right(starts_s, time) - 1) for time in times_s})
