"""Whether a PNG holds the pixels that its header promises.

Decoders fill up what is missing without a word. So a header may claim a picture of any size over a few bytes, and what
a guard is shown would depend on the decoder. Inflating the pixels in small pieces and counting them tells.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from corral.core.errors import MediaError

_SIGNATURE_BYTES: Final = 8
_PIECE: Final = 1 << 16
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Adam7: first column, first row, column step, row step of each pass
_PASSES: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def check_png(data: bytes) -> None:
    """Refuse a PNG whose first picture is not there in full.

    Raises:
        MediaError: chunks or pixels are missing, or the compressed data are damaged.
    """
    try:
        expected = _expected_bytes(data)
        found = 0
        inflater = zlib.decompressobj()
        for chunk in _chunks(data, b"IDAT"):
            body: bytes | memoryview = chunk
            while body and found < expected:
                found += len(inflater.decompress(body, _PIECE))
                body = inflater.unconsumed_tail
            if found >= expected:
                return
        found += len(inflater.flush())
    except (struct.error, zlib.error, KeyError) as error:
        raise MediaError(f"the image is truncated or damaged ({type(error).__name__})") from error
    if found < expected:
        raise MediaError(f"the header promises {expected:,} bytes of pixels, and {found:,} are there")


def _expected_bytes(data: bytes) -> int:
    """Inflated size of all pixels: each row is a filter byte and its packed pixels."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, _SIGNATURE_BYTES + 8)
    bits = depth * _CHANNELS[colour]

    def size(columns: int, rows: int) -> int:
        return rows * (1 + (columns * bits + 7) // 8) if columns and rows else 0

    if not interlaced:
        return size(width, height)
    return sum(
        size(-((x - width) // dx), -((y - height) // dy)) for x, y, dx, dy in _PASSES if x < width and y < height
    )


def _chunks(data: bytes, wanted: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    place = _SIGNATURE_BYTES
    while place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        if name == wanted:
            yield view[place + 8 : place + 8 + length]
        place += 12 + length
