"""Where bytes come from: a path, a stream, a ``data:`` URI, and a remote address only where the operator allows it."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final
from urllib.parse import unquote_to_bytes

from corral.core.errors import MediaError
from corral.data.media.limits import MediaLimits

Fetch = Callable[[str, int], bytes]
"""From a remote address and the largest number of bytes to its content; what it raises is a rejection."""

_CHUNK: Final = 1 << 20
_SHOWN: Final = 40


def read_file(path: Path, limits: MediaLimits) -> bytes:
    """The bytes of a regular file.

    Raises:
        MediaError: no regular file, not readable, or larger than the limit; it is then not read.
    """
    try:
        # a pipe would block at open, a device never end
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:  # noqa: PTH123
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise MediaError("is not a regular file", where=str(path))
            return read_stream(stream, limits)
    except OSError as error:
        raise MediaError(f"cannot be read: {error.strerror}", where=str(path)) from error


def read_stream(stream: IO[bytes], limits: MediaLimits) -> bytes:
    """All bytes of a stream.

    Raises:
        MediaError: there are more than the limit; no more than that is read.
    """
    chunks: list[bytes] = []
    room = limits.max_bytes
    while chunk := stream.read(min(_CHUNK, room + 1)):
        room -= len(chunk)
        if room < 0:
            raise limits.too_large()
        chunks.append(chunk)
    return b"".join(chunks)


def read_data_uri(uri: str, limits: MediaLimits) -> bytes:
    """The bytes of a ``data:`` URI, base64 or percent-encoded.

    Raises:
        MediaError: malformed, or larger than the limit.
    """
    head, comma, body = uri.partition(",")
    if not comma or not head.lower().startswith("data:"):
        raise MediaError("not a data URI")
    if len(body) > limits.max_bytes * 4 // 3 + 4:
        raise limits.too_large()
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError("a data URI whose base64 is malformed") from error


@dataclass(frozen=True, slots=True)
class MediaAccess:
    """What the image parts of conversations may refer to.

    Conversations come from people: a path in one could name any file of the machine, an address any host that the
    machine can reach. So neither is followed unless the operator says so.

    Attributes:
        root: folder under which local paths are allowed; ``None`` allows none.
        fetch: gets remote addresses; ``None`` allows none.
        limits: of what is read.
    """

    root: Path | None = None
    fetch: Fetch | None = None
    limits: MediaLimits = field(default_factory=MediaLimits)

    def read(self, url: str) -> bytes:
        """The bytes that an image part refers to.

        Raises:
            MediaError: malformed, out of reach, larger than the limit, or not allowed.
        """
        scheme = url.partition(":")[0].lower() if ":" in url else ""
        if scheme == "data":
            return read_data_uri(url, self.limits)
        if scheme in ("http", "https"):
            return self._fetched(url)
        if scheme and "/" not in scheme and len(scheme) > 1:
            raise MediaError(f"addresses of the scheme `{scheme[:_SHOWN]}` are not read", hint="Use a data URI.")
        return self._local(url)

    def _fetched(self, url: str) -> bytes:
        if self.fetch is None:
            raise MediaError("remote addresses are not enabled", hint="Give the image as a data URI.")
        try:
            content = self.fetch(url, self.limits.max_bytes)
        except Exception as error:
            raise MediaError(f"the remote address could not be read ({type(error).__name__})") from error
        if len(content) > self.limits.max_bytes:
            raise self.limits.too_large()
        return content

    def _local(self, url: str) -> bytes:
        if self.root is None:
            raise MediaError("local paths are not allowed", hint="Give a data URI, or allow a folder (--media-root).")
        root = self.root.resolve()
        try:
            path = (root / url).resolve()
        except (OSError, ValueError) as error:  # a loop of links, or a null byte
            raise MediaError("not a path that can be read") from error
        if not path.is_relative_to(root):
            raise MediaError("a path outside of the allowed folder")
        return read_file(path, self.limits)
