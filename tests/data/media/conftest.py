"""Pictures and clips that the tests make: colours and shapes, nothing else."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("av")


def picture(width: int = 32, height: int = 24, colour: tuple[int, int, int] = (200, 40, 90)) -> Any:
    from PIL import Image

    return Image.new("RGB", (width, height), colour)


def encoded(image: Any, name: str, **options: Any) -> bytes:
    with io.BytesIO() as buffer:
        image.save(buffer, name, **options)
        return buffer.getvalue()


def clip(
    greys: Sequence[int],
    *,
    rate: int = 10,
    codec: str = "libx264",
    container: str = "mp4",
    times: Sequence[float] | None = None,
) -> bytes:
    """A clip of plain frames of these greys; ``times`` in seconds make its frame rate variable."""
    import av

    with io.BytesIO() as buffer:
        with av.open(buffer, "w", format=container) as output:
            stream = output.add_stream(codec, rate=rate)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            unit = Fraction(1, 1000 if times else rate)
            stream.codec_context.time_base = unit
            for index, grey in enumerate(greys):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), grey, np.uint8), format="rgb24")
                frame.pts = round(1000 * times[index]) if times else index
                frame.time_base = unit
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
        return buffer.getvalue()


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., bytes]:
    return clip


@pytest.fixture(scope="session")
def make_picture() -> Callable[..., bytes]:
    def made(name: str = "PNG", **of: Any) -> bytes:
        return encoded(picture(**of), name)

    return made
