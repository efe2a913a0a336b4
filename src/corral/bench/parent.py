"""Ending with the process that started this one, however that one ended.

A child is started with a pipe on its standard input that only the parent holds. When the parent exits, is interrupted
or is killed, the pipe closes, which no signal handler of the parent could promise.
"""

from __future__ import annotations

import os
import select
import sys
import threading

_STANDARD_INPUT = 0


def exit_with_parent() -> None:
    """From now on, leave this process at once when the parent closes the pipe or is gone."""

    def watch() -> None:
        while os.read(_STANDARD_INPUT, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def parent_is_gone(seconds: float) -> bool:
    """Wait so long for the parent to close the pipe; true when it did."""
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable)
