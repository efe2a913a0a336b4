"""Lines appended to a file, so that a crash or an interrupted write costs at most the lines not yet flushed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from corral.core.errors import RunError, UserError
from corral.core.files import sync_path

_BLOCK: Final = 1 << 20


class _State(NamedTuple):
    """Replaced in one step, so that a Ctrl-C finds it before or after a flush, never between."""

    end: int
    lines: int
    pending: list[bytes]


class LineFile:
    """An append-only file of lines that end in ``\\n``, created when missing.

    Flushing writes the pending lines at the remembered end of the file and only then moves that end: when an interrupt
    or a full disk stops it half way, flushing again writes the same bytes to the same place. Not for use by several
    threads.

    Attributes:
        path: the file.
        created: this object created the file.
        descriptor: of the open file, for locking.

    Raises:
        UserError: the path is a folder, a pipe or a device, or may not be written.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.descriptor, self.created = _open(path)
        if self.created:
            sync_path(path.parent)
        self.pending_bytes = 0
        self._state = _State(os.fstat(self.descriptor).st_size, 0, [])

    @property
    def count(self) -> int:
        """Lines, the pending ones included; those already there count once ``recover`` has read them."""
        return self._state.lines + len(self._state.pending)

    @property
    def size(self) -> int:
        """Bytes up to the end of the last flushed line."""
        return self._state.end

    def recover(self) -> None:
        """Cut off a last line without its ``\\n``, which a crash tore, and count the others."""
        lines = end = offset = 0
        while block := os.pread(self.descriptor, _BLOCK, offset):
            lines += block.count(b"\n")
            last = block.rfind(b"\n")
            end = offset + last + 1 if last >= 0 else end
            offset += len(block)
        self.truncate(end, lines)

    def lines(self) -> Iterator[bytes]:
        """The flushed lines, without their ``\\n``."""
        end = self.size
        with self.path.open("rb") as stream:
            while stream.tell() < end:
                yield stream.readline()[:-1]

    def append(self, line: bytes) -> None:
        """Add a line, which must hold no ``\\n``, to the pending ones."""
        self._state.pending.append(line + b"\n")
        self.pending_bytes += len(line) + 1

    def flush(self) -> None:
        """Hand the pending lines to the operating system: they survive the end of this process.

        Raises:
            RunError: they could not be written; they stay pending.
        """
        end, lines, pending = self._state
        data = memoryview(b"".join(pending))
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self.descriptor, data[written:], end + written)
        except OSError as error:
            raise RunError(
                f"cannot be written: {error.strerror}",
                where=str(self.path),
                hint="Make room and run the same command again; it continues where it stopped.",
            ) from error
        self._state = _State(end + written, lines + len(pending), [])
        self.pending_bytes = 0

    def sync(self) -> None:
        """Wait until what was flushed is on the disk: it survives a power cut."""
        os.fsync(self.descriptor)

    def truncate(self, end: int, lines: int) -> None:
        """Keep the first ``end`` bytes, which hold ``lines`` lines, and drop what is pending."""
        os.ftruncate(self.descriptor, end)
        self._state = _State(end, lines, [])
        self.pending_bytes = 0

    def close(self) -> None:
        """Close the file and release its lock; lines still pending are lost."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _open(path: Path) -> tuple[int, bool]:
    """Descriptor, and whether the file is new."""
    try:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            if not stat.S_ISREG(path.stat().st_mode):
                raise UserError("is not a file that can be continued", where=str(path)) from None
            return os.open(path, os.O_RDWR), False
    except OSError as error:
        raise UserError(f"cannot be opened for writing: {error.strerror}", where=str(path)) from error
