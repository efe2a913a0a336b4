"""Clips through PyAV (FFmpeg): frame times by reading packets, pictures only of the frames that are asked for.

The bytes are given to FFmpeg as a stream under the one container format that the first bytes name, so that a playlist
or a reference in the file opens nothing else; only common codecs are decoded, on one thread, and FFmpeg itself refuses
pictures over ``MediaLimits.max_pixels`` before it makes room for them. What a header says about length is not believed:
times are those of the packets that are there.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from corral.core.errors import MediaError
from corral.data.media.extra import media_library
from corral.data.media.frames import TimedFrame
from corral.data.media.kinds import Kind, Modality
from corral.data.media.limits import MediaLimits

CODECS: Final = frozenset(
    {"h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "libvpx", "libvpx-vp9", "mpeg4", "mpeg2video", "mjpeg", "prores"}
)
"""FFmpeg's names of the decoders that are used."""

_NEAR: Final = 16  # frames ahead that are reached by decoding on, without looking for a key frame
_DAMAGED: Final = "the clip is truncated or damaged"


@dataclass(frozen=True, slots=True)
class OpenedVideo:
    """A clip; see ``OpenedMedia``. ``_stamps`` are the frames' presentation times in the stream's own unit."""

    kind: str
    modality: Modality
    width: int
    height: int
    starts_s: tuple[float, ...]
    duration_s: float
    _stamps: tuple[int, ...]
    _data: bytes
    _format: str
    _limits: MediaLimits

    def frames(self, indices: Sequence[int]) -> Iterator[TimedFrame]:
        """The frames of these numbers, which ascend; see ``OpenedMedia.frames``."""
        watch = self._limits.stopwatch()
        decoded = 0
        with _container(self._data, self._format, self._limits) as (container, stream), _rejecting():
            upcoming: Iterator[Any] = iter(())
            at = -1
            for index in indices:
                if not self._near(at, index):
                    container.seek(self._stamps[index], stream=stream, backward=True, any_frame=False)
                    upcoming = container.decode(stream)
                found = None
                for picture in upcoming:
                    watch.check()
                    decoded += 1
                    if decoded > self._limits.max_decoded_frames:
                        raise MediaError(f"more than {self._limits.max_decoded_frames:,} frames had to be decoded")
                    if picture.pts is not None and picture.pts >= self._stamps[index]:
                        found = picture
                        break
                if found is None:
                    raise MediaError(_DAMAGED)
                at = index
                self._limits.check_size(found.width, found.height)
                rgb = np.ascontiguousarray(found.to_ndarray(format="rgb24"))
                yield TimedFrame(self.starts_s[index], rgb)

    def _near(self, at: int, index: int) -> bool:
        """Whether going on from frame ``at`` is likely to be quicker than to look for the key frame before."""
        return 0 <= at < index <= at + _NEAR


def open_video(data: bytes, kind: Kind, limits: MediaLimits) -> OpenedVideo:
    """Check a clip against its limits and time its frames; no picture is asked for.

    Raises:
        MediaError: not a clip of this kind, without pictures, of a codec that is not decoded, or over a limit.
        MissingDependencyError: PyAV is not installed.
    """
    with _container(data, kind.reader, limits) as (container, stream):
        context = stream.codec_context
        limits.check_size(context.width, context.height)
        stamps, end = _stamps(container, stream, kind.reader, limits)
        unit = float(stream.time_base)
        starts = tuple((stamp - stamps[0]) * unit for stamp in stamps)
        modality: Modality = "clip" if len(stamps) > 1 else "image"
        duration = (end - stamps[0]) * unit
        size = (context.width, context.height)
    return OpenedVideo(kind.name, modality, *size, starts, duration, stamps, data, kind.reader, limits)


def _stamps(container: Any, stream: Any, name: str, limits: MediaLimits) -> tuple[tuple[int, ...], int]:
    """Presentation time of every frame, ascending, and the end of the last, in the stream's unit."""
    watch = limits.stopwatch()
    stamps: set[int] = set()
    end = 0
    packets = 0
    with _rejecting():
        for packet in container.demux(stream):
            if packet.size == 0:  # the last one, which only says that there are no more
                continue
            packets += 1
            if packets > limits.max_clip_frames:
                raise MediaError(f"a clip of more than {limits.max_clip_frames:,} frames")
            watch.check()
            if packet.is_corrupt:
                raise MediaError(_DAMAGED)
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is None or packet.is_discard:
                continue
            stamps.add(stamp)
            end = max(end, stamp + max(packet.duration or 0, 1))
    if not stamps:
        raise MediaError("the clip holds no frame")
    # an MP4 lists its frames; other headers state a length at some rate
    if name == "mov" and stream.frames > packets:
        raise MediaError(f"{_DAMAGED}: {packets} of {stream.frames} frames are there")
    return tuple(sorted(stamps)), end


@contextmanager
def _container(data: bytes, name: str, limits: MediaLimits) -> Iterator[tuple[Any, Any]]:
    """The opened container and its first stream of pictures."""
    av = media_library("av")
    options = {"max_pixels": str(limits.max_pixels), "threads": "1", "format_whitelist": name, "enable_drefs": "0"}
    with _rejecting():
        container = av.open(
            io.BytesIO(data),
            mode="r",
            format=name,
            options=options,
            metadata_errors="ignore",
            timeout=limits.max_seconds,
        )
    try:
        stream = next((each for each in container.streams.video), None)
        if stream is None:
            raise MediaError("the clip holds no pictures")
        context = stream.codec_context
        if context is None or context.codec.name not in CODECS:
            raise MediaError("the clip's codec is not one that is decoded")
        context.options = {"max_pixels": str(limits.max_pixels)}
        context.thread_count = 1
        yield container, stream
    finally:
        container.close()


@contextmanager
def _rejecting() -> Iterator[None]:
    """Turn whatever FFmpeg raises on untrusted bytes into a rejection."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        raise MediaError(f"{_DAMAGED} ({type(error).__name__})") from error
