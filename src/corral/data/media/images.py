"""Still and animated images through Pillow.

Only the decoder of the format that the first bytes name is tried, on sizes that the header states and ``MediaLimits``
allow. Transparent pixels are shown on white, and a photograph is turned as its EXIF data say, as a browser does both.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from corral.core.errors import MediaError
from corral.data.media.extra import media_library
from corral.data.media.frames import RgbImage, TimedFrame
from corral.data.media.gif import gif_layout
from corral.data.media.kinds import Kind, Modality
from corral.data.media.limits import MediaLimits
from corral.data.media.png import check_png

if TYPE_CHECKING:
    from PIL.Image import Image

_USUAL_FRAME_S: Final = 0.1
_MILLISECONDS: Final = 1000.0


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """A still or animated image; see ``OpenedMedia``."""

    kind: str
    modality: Modality
    width: int
    height: int
    starts_s: tuple[float, ...]
    duration_s: float
    _data: bytes
    _format: str
    _limits: MediaLimits

    def frames(self, indices: Sequence[int]) -> Iterator[TimedFrame]:
        """The frames of these numbers, which ascend; see ``OpenedMedia.frames``."""
        watch = self._limits.stopwatch()
        with _opened(self._data, self._format) as image:
            for index in indices:
                with _rejecting("the image is truncated or damaged"):
                    # A frame is drawn over those before it, so an animated image is walked frame by frame.
                    for number in range(image.tell() + 1, index + 1):
                        watch.check()
                        image.seek(number)
                    self._limits.check_size(*image.size)
                    rgb = _as_rgb(image)
                yield TimedFrame(self.starts_s[index], rgb)


def open_image(data: bytes, kind: Kind, limits: MediaLimits) -> OpenedImage:
    """Check an image against its limits by its header, and time its frames; no picture is decoded to memory.

    Raises:
        MediaError: not an image of this kind, truncated before the first picture, or over a limit.
        MissingDependencyError: Pillow is not installed.
    """
    if kind.name == "gif":
        layout = gif_layout(data, limits)
        size, starts, duration = (layout.width, layout.height), layout.starts_s, layout.duration_s
    else:
        with _opened(data, kind.reader) as image:
            size = image.size
            limits.check_size(*size)
            starts, duration = _timing(image, limits)
        if kind.name == "png":
            check_png(data)
    modality: Modality = "clip" if len(starts) > 1 else "image"
    still = modality == "image"
    return OpenedImage(kind.name, modality, *size, starts, 0.0 if still else duration, data, kind.reader, limits)


def _timing(image: Image, limits: MediaLimits) -> tuple[tuple[float, ...], float]:
    """Frame starts and duration of a PNG, JPEG or WebP, all of which state the number of frames in the header.

    Their durations stand beside the frames, and reading them would mean to decode: the usual rate stands for them.
    """
    count = int(getattr(image, "n_frames", 1))
    limits.check_frames(count)
    each = float(image.info.get("duration") or 0) / _MILLISECONDS or _USUAL_FRAME_S
    return tuple(index * each for index in range(count)), count * each


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image]:
    pillow = media_library("PIL.Image")
    with _rejecting("the image's header is damaged"), warnings.catch_warnings():
        # the limits that follow are stricter than what Pillow warns of
        warnings.simplefilter("ignore", pillow.DecompressionBombWarning)
        image: Image = pillow.open(io.BytesIO(data), formats=(name,))
    try:
        yield image
    finally:
        image.close()


@contextmanager
def _rejecting(what: str) -> Iterator[None]:
    """Turn whatever a decoder raises on untrusted bytes into a rejection."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        if type(error).__name__ == "DecompressionBombError":
            raise MediaError("far too many pixels") from error
        raise MediaError(f"{what} ({type(error).__name__})") from error


def _as_rgb(image: Image) -> RgbImage:
    pillow, ops = media_library("PIL.Image"), media_library("PIL.ImageOps")
    upright = ops.exif_transpose(image)
    if upright.mode != "RGB":
        upright = _on_white(upright, pillow) if upright.has_transparency_data else upright.convert("RGB")
    return np.asarray(upright, dtype=np.uint8)


def _on_white(image: Image, pillow: Any) -> Image:
    rgba = image.convert("RGBA")
    white: Image = pillow.new("RGBA", rgba.size, "white")
    white.alpha_composite(rgba)
    return white.convert("RGB")
