"""What a file is, told by its first bytes and never by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from corral.core.errors import MediaError

Modality = Literal["image", "clip"]
"""A single picture, or several in time: an animated image or a video."""

HEAD_BYTES: Final = 32
IMAGE_SUFFIXES: Final = (".png", ".apng", ".jpg", ".jpeg", ".webp", ".gif")
VIDEO_SUFFIXES: Final = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
MEDIA_SUFFIXES: Final = IMAGE_SUFFIXES + VIDEO_SUFFIXES


@dataclass(frozen=True, slots=True)
class Kind:
    """A format: its name, and whether Pillow or FFmpeg reads it.

    ``reader`` is Pillow's name of the format, or FFmpeg's of the demultiplexer.
    """

    name: str
    library: Literal["pillow", "ffmpeg"]
    reader: str


_PNG: Final = Kind("png", "pillow", "PNG")
_JPEG: Final = Kind("jpeg", "pillow", "JPEG")
_GIF: Final = Kind("gif", "pillow", "GIF")
_WEBP: Final = Kind("webp", "pillow", "WEBP")
_MP4: Final = Kind("mp4", "ffmpeg", "mov")
_MATROSKA: Final = Kind("matroska", "ffmpeg", "matroska")
_AVI: Final = Kind("avi", "ffmpeg", "avi")
_STILL_BRANDS: Final = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")


def kind_of(head: bytes) -> Kind:
    """The format of a file that begins with these bytes (at least ``HEAD_BYTES`` of them, if it has as many).

    Raises:
        MediaError: an empty file, or a format that is not read.
    """
    if not head:
        raise MediaError("it is empty")
    found = _kind_of(head)
    if found is None:
        raise MediaError(
            "not an image or clip of a kind that is read",
            hint="PNG, JPEG, WebP and GIF images and MP4, MOV, WebM, Matroska and AVI clips are.",
        )
    return found


def _kind_of(head: bytes) -> Kind | None:
    for magic, kind in (
        (b"\x89PNG\r\n\x1a\n", _PNG),
        (b"\xff\xd8\xff", _JPEG),
        (b"GIF87a", _GIF),
        (b"GIF89a", _GIF),
        (b"\x1a\x45\xdf\xa3", _MATROSKA),
    ):
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF":
        return {b"WEBP": _WEBP, b"AVI ": _AVI}.get(head[8:12])
    if head[4:8] == b"ftyp" and head[8:12] not in _STILL_BRANDS:
        return _MP4
    return None
