"""A server as a subprocess: started on a free port, waited for, and ended with all that it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO, Final

from corral.core.errors import CorralError

_POLL_SECONDS: Final = 0.5
_STOP_SECONDS: Final = 20.0
_SHOWN_LINES: Final = 30


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running_server(
    command: Sequence[str], *, environment: Mapping[str, str], ready: str, timeout: float
) -> Iterator[None]:
    """Run a server for the length of the block; it is ended however the block, or this process, ends.

    Args:
        command: program and arguments.
        environment: its whole environment.
        ready: URL that answers 200 once it can serve.
        timeout: seconds until then.

    Raises:
        CorralError: it ended or was not ready in time; holds the end of its log.
    """
    with tempfile.TemporaryFile() as log:
        supervisor = subprocess.Popen(  # noqa: S603 - what the user runs the benchmark with
            [sys.executable, "-m", "corral.bench.supervisor", *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            _wait_until_ready(supervisor, ready, timeout, log)
            yield
        finally:
            _stop(supervisor)


def _wait_until_ready(supervisor: subprocess.Popen[bytes], ready: str, timeout: float, log: BinaryIO) -> None:
    deadline = time.monotonic() + timeout
    while not _answers(ready):
        if supervisor.poll() is not None:
            raise CorralError(f"the server ended before it was ready; the end of its log:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise CorralError(f"the server was not ready within {timeout:g} s; the end of its log:\n{_tail(log)}")
        time.sleep(_POLL_SECONDS)


def _answers(url: str) -> bool:
    import httpx2

    try:
        return httpx2.get(url, timeout=5.0, trust_env=False).status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False


def _tail(log: BinaryIO) -> str:
    # Not by reading on: the server writes at the same offset.
    written = os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0)
    return "\n".join(written.decode(errors="replace").splitlines()[-_SHOWN_LINES:])


def _stop(supervisor: subprocess.Popen[bytes]) -> None:
    """Close the pipe that the supervisor waits on, which ends its process group; and make sure of it."""
    assert supervisor.stdin is not None  # noqa: S101 - it was started with a pipe
    supervisor.stdin.close()
    try:
        with suppress(subprocess.TimeoutExpired):
            supervisor.wait(_STOP_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(supervisor.pid, signal.SIGKILL)
        supervisor.wait()
