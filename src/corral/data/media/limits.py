"""How large an image or clip may be; every limit is checked before what it limits is decoded."""

from __future__ import annotations

import time
from dataclasses import dataclass

from corral.core.errors import ConfigError, MediaError


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Bounds on memory and time for one image or clip.

    Attributes:
        max_bytes: of the encoded file; a stream is read no further.
        max_pixels: of one frame, as the file's header states it.
        max_frames: frames of an animated image, and frames that are taken of a clip.
        max_clip_frames: frames that a clip may have; their times are read, not their pictures.
        max_decoded_frames: frames that may have to be decoded on the way to those that are taken.
        max_seconds: of decoding, looked at between frames.

    Raises:
        ConfigError: a limit that is not above 0.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 20_000_000
    max_frames: int = 256
    max_clip_frames: int = 500_000
    max_decoded_frames: int = 20_000
    max_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise ConfigError(f"`{getattr(self, name)}` is not above 0", where=f"limits.{name}")

    def check_size(self, width: int, height: int) -> None:
        """Refuse a frame that is empty or has too many pixels.

        Raises:
            MediaError: it is.
        """
        if width < 1 or height < 1:
            raise MediaError(f"a frame of {width} x {height} pixels is empty")
        if width * height > self.max_pixels:
            raise MediaError(
                f"{width} x {height} pixels are over the limit of {self.max_pixels:,}",
                hint="Scale it down, or raise the limit (max_pixels).",
            )

    def check_frames(self, count: int) -> None:
        """Refuse an animated image of too many frames, or of none.

        Raises:
            MediaError: it is one.
        """
        if count < 1:
            raise MediaError("it holds no frame")
        if count > self.max_frames:
            raise MediaError(
                f"an animated image of more than {self.max_frames} frames",
                hint="Give it as a video, of which frames are sampled, or raise the limit (max_frames).",
            )

    def too_large(self) -> MediaError:
        """The rejection of a file of too many bytes."""
        return MediaError(
            f"more than {self.max_bytes:,} bytes", hint="Make it smaller, or raise the limit (max_bytes)."
        )

    def stopwatch(self) -> Stopwatch:
        """Starts the time that decoding may take."""
        return Stopwatch(time.monotonic() + self.max_seconds, self.max_seconds)


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """The end of the time that decoding may take."""

    ends_at: float
    seconds: float

    def check(self) -> None:
        """Refuse to go on after the end.

        Raises:
            MediaError: the time is over.
        """
        if time.monotonic() > self.ends_at:
            raise MediaError(f"decoding took more than {self.seconds:g} seconds")
