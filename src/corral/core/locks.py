"""One writer at a time: an advisory lock on a file or directory, released when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from corral.core.errors import RunError

_PATIENCE_S = 0.2


def lock_descriptor(descriptor: int, path: Path) -> None:
    """Lock an open descriptor for this process alone until it is closed.

    A holder that only looked (``is_locked``) lets go within the fifth of a second that this waits.

    Raises:
        RunError: another process holds it, or the file system has no locks.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise RunError(
                    "another process is writing here", where=str(path), hint="Wait for it, or choose another place."
                ) from error
            time.sleep(0.01)
        except OSError as error:
            raise RunError(f"cannot be locked: {error.strerror}", where=str(path), hint="Use a local disk.") from error
        else:
            return


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock of this file or directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
