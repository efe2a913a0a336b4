"""Many requests to one server: memory stays flat, and every one has its row.

`make soak` sends 20,000; without ``CORRAL_SOAK_ROWS``, as in `make test`, a hundredth of that.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

import httpx2

from corral.serve.audit.database import Database
from corral.serve.audit.queries import verify_chain

REQUESTS = int(os.environ.get("CORRAL_SOAK_ROWS", "2000")) // 10
WARM = min(1000, REQUESTS // 2)
CLIENTS = 8
SLACK_MB = 24


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_is_flat_over_many_requests(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "corral.cli.main", "serve", "--guard", "scripted", "--upstream", "none"]
    with subprocess.Popen(
        [*command, "--port", "0", "--state", str(tmp_path)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        url = next(found[1] for line in process.stderr if (found := re.search(r"serving on (\S+),", line)))
        try:
            asyncio.run(send(url, WARM))
            before = resident_mb(process.pid)
            asyncio.run(send(url, REQUESTS))
            grown = resident_mb(process.pid) - before
        finally:
            process.terminate()
            process.wait(60)
    database = Database(f"sqlite:///{tmp_path / 'serve.sqlite3'}")
    report = verify_chain(database)
    database.close()
    assert report.intact
    assert report.rows == WARM + REQUESTS
    assert grown < SLACK_MB


async def send(url: str, count: int) -> None:
    numbers = iter(range(count))
    base = time.time_ns()

    async def work(client: Any) -> None:
        for number in numbers:
            answer = await client.post("/v1/moderations", json={"input": f"hello {base} {number} " + "word " * 50})
            assert answer.status_code == 200

    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(*(work(client) for _ in range(CLIENTS)))
