"""A server for the length of a block: ready, or an error with its log; and gone afterwards, whatever happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.bench.server import free_port, running_server
from corral.core.errors import CorralError

# Starts a process of its own that does nothing, as vLLM starts its workers, and writes down both ids.
SERVER = """
import os, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[2], "w") as file:
    file.write(f"{os.getpid()} {worker.pid}")
class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""


class Served:
    """The command of a server, and the processes it wrote down."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._pids = folder / "pids"
        self.command = [sys.executable, "-c", SERVER, str(self.port), str(self._pids)]
        self.ready = f"http://127.0.0.1:{self.port}/health"

    @property
    def pids(self) -> list[int]:
        return [int(pid) for pid in self._pids.read_text().split()]

    def gone(self) -> bool:
        return eventually(lambda: not any(alive(pid) for pid in self.pids))


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in {"Z", "X"}


def eventually(holds: Callable[[], bool], *, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_a_server_and_its_workers_are_gone_after_the_block(served: Served, error: type[BaseException] | None) -> None:
    def use() -> None:
        with running_server(served.command, environment=os.environ, ready=served.ready, timeout=60):
            assert all(alive(pid) for pid in served.pids)
            if error:
                raise error

    if error:
        with pytest.raises(error):
            use()
    else:
        use()
    assert served.gone()


def test_a_server_is_gone_when_whoever_started_it_is_killed(served: Served) -> None:
    program = f"""
import os, time
from corral.bench.server import running_server
with running_server({served.command!r}, environment=os.environ, ready={served.ready!r}, timeout=60):
    print("ready", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        owner.send_signal(signal.SIGKILL)
    assert served.gone()


def test_a_server_that_ends_before_it_is_ready_is_an_error_with_its_log(served: Served) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with (
        pytest.raises(CorralError, match=r"ended before it was ready.*(?s:.*)no such model(?s:.*)exit code 1"),
        running_server(command, environment=os.environ, ready=served.ready, timeout=60),
    ):
        pytest.fail("it is not ready")


def test_a_server_that_is_never_ready_is_ended(served: Served) -> None:
    elsewhere = f"http://127.0.0.1:{free_port()}/health"
    with (
        pytest.raises(CorralError, match="not ready within 8 s"),
        running_server(served.command, environment=os.environ, ready=elsewhere, timeout=8),
    ):
        pytest.fail("it is not ready")
    assert served.gone()
