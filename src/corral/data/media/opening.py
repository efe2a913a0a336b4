"""From bytes to opened media, whatever they are."""

from __future__ import annotations

from corral.data.media.frames import OpenedMedia
from corral.data.media.images import open_image
from corral.data.media.kinds import HEAD_BYTES, kind_of
from corral.data.media.limits import MediaLimits
from corral.data.media.video import open_video


def open_media(data: bytes, limits: MediaLimits | None = None) -> OpenedMedia:
    """Tell what the bytes are, check the limits and time the frames; no picture is decoded yet.

    Raises:
        MediaError: of no kind that is read, broken, without frames, or over a limit.
        MissingDependencyError: the library that reads the kind is not installed.
    """
    limits = limits or MediaLimits()
    if len(data) > limits.max_bytes:
        raise limits.too_large()
    kind = kind_of(data[:HEAD_BYTES])
    return open_image(data, kind, limits) if kind.library == "pillow" else open_video(data, kind, limits)
