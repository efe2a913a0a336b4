"""Runs a server and ends it, and every process that it started, when the one who asked for it is gone.

``python -m corral.bench.supervisor COMMAND...`` must lead a process group of its own (``start_new_session``) and be
given a pipe as standard input: when that closes, or the server ends, the whole group is ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Final

from corral.bench.parent import parent_is_gone

_POLL_SECONDS: Final = 0.2
_GRACE_SECONDS: Final = 10.0


def supervise(command: list[str]) -> None:
    """Run the command until it or the parent ends, then end the process group, this process included."""
    # A handler, since a signal that is ignored would be ignored by the server too.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as server:  # noqa: S603 - our own caller's
        while server.poll() is None and not parent_is_gone(_POLL_SECONDS):
            pass
        if server.returncode is not None:
            print(f"the server ended with exit code {server.returncode}", file=sys.stderr, flush=True)
        os.killpg(0, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(_GRACE_SECONDS)
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    supervise(sys.argv[1:])
