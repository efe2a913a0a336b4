"""The layout of a GIF, read without decoding a picture: how large it gets, how many frames, when each is shown.

A GIF says nowhere how many frames follow, and a later frame may lie outside of the canvas that the header states. A
decoder learns of both only while it decodes, which is too late for a limit.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import accumulate
from struct import unpack_from
from typing import Final

from corral.core.errors import MediaError
from corral.data.media.limits import MediaLimits

_HEADER_BYTES: Final = 13
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL: Final = 0xF9
_SHORTEST_DELAY: Final = 2  # hundredths of a second; browsers show faster frames at 10
_USUAL_DELAY: Final = 10


@dataclass(frozen=True, slots=True)
class GifLayout:
    """What the blocks of a GIF say.

    Attributes:
        width: of the canvas that all frames fit.
        height: of the same.
        starts_s: when each frame is first shown.
        duration_s: of one round.
    """

    width: int
    height: int
    starts_s: tuple[float, ...]
    duration_s: float


def gif_layout(data: bytes, limits: MediaLimits) -> GifLayout:
    """Read the blocks; stops at the first frame that is too large or one too many.

    Raises:
        MediaError: over a limit, without frames, or the blocks end before the trailer.
    """
    try:
        return _layout(data, limits)
    except (IndexError, struct.error) as error:
        raise MediaError("the GIF is truncated") from error


def _layout(data: bytes, limits: MediaLimits) -> GifLayout:
    width, height = unpack_from("<HH", data, 6)
    limits.check_size(width, height)
    place = _HEADER_BYTES + _table_bytes(data[10])
    delays: list[float] = []
    delay = _USUAL_DELAY
    while (block := data[place]) != _TRAILER:
        if block == _EXTENSION:
            if data[place + 1] == _GRAPHIC_CONTROL:
                (delay,) = unpack_from("<H", data, place + 4)
            place = _after_blocks(data, place + 2)
        elif block == _IMAGE:
            left, top, w, h = unpack_from("<HHHH", data, place + 1)
            width, height = max(width, left + w), max(height, top + h)
            limits.check_size(width, height)
            place = _after_blocks(data, place + 11 + _table_bytes(data[place + 9]))
            delays.append((delay if delay >= _SHORTEST_DELAY else _USUAL_DELAY) / 100)
            limits.check_frames(len(delays))
        else:
            raise MediaError("the GIF holds a block of an unknown kind")
    limits.check_frames(len(delays))
    ends = list(accumulate(delays))
    return GifLayout(width, height, (0.0, *ends[:-1]), ends[-1])


def _table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, place: int) -> int:
    """Place after a row of sub-blocks, each a length and as many bytes, that ends with a length of 0."""
    while length := data[place]:
        place += 1 + length
    return place + 1
