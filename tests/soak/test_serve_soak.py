"""Many requests to one server: memory stays flat, every one has its row, and kill -9 loses no answered decision.

`make soak` sends 20,000, and 5,000 with kills at random moments; without ``CORRAL_SOAK_ROWS``, as in `make test`, a
hundredth of that. `make soak SOAK_GUARD=default` watches the memory of the default guard instead of the scripted one's.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

import httpx2

from corral.serve.audit.database import Database
from corral.serve.audit.queries import exported_rows, verify_chain

REQUESTS = int(os.environ.get("CORRAL_SOAK_ROWS", "2000")) // 10
WARM = min(1000, REQUESTS // 2)
KILLED_REQUESTS = REQUESTS // 4
KILLS = 3 if REQUESTS < 1000 else 20
LEAST_KILLS = 2
LONGEST_WAIT_SECONDS = 0.05
CLIENTS = 8
GUARD = os.environ.get("CORRAL_SOAK_GUARD", "scripted")
LONGEST_WORDS = 100
SLACK_MB = 24


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


@contextmanager
def served(state: Path, guard: str = "scripted") -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server in a process of its own, and its address."""
    command = [sys.executable, "-m", "corral.cli.main", "serve", "--guard", guard, "--upstream", "none"]
    with subprocess.Popen(
        [*command, "--port", "0", "--state", str(state)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            url = next(found[1] for line in process.stderr if (found := re.search(r"serving on (\S+),", line)))
            yield url, process
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_is_flat_over_many_requests(tmp_path: Path) -> None:
    with served(tmp_path, GUARD) as (url, process):
        asyncio.run(send(url, WARM))
        before = resident_mb(process.pid)
        asyncio.run(send(url, REQUESTS))
        grown = resident_mb(process.pid) - before
    print(f"\n{REQUESTS:,} requests to the guard `{GUARD}`: {before:.0f} MB resident, {grown:+.0f} MB at the end")
    database = Database(f"sqlite:///{tmp_path / 'serve.sqlite3'}")
    report = verify_chain(database)
    database.close()
    assert report.intact
    assert report.rows == WARM + REQUESTS
    assert grown < SLACK_MB


def test_kill_9_loses_no_answered_decision(tmp_path: Path) -> None:
    moments = random.Random(0)
    answered: dict[str, str] = {}
    kills = 0
    while len(answered) < KILLED_REQUESTS or kills < LEAST_KILLS:  # a fast server answers all of a short run at once
        with served(tmp_path) as (url, process):  # restarts cleanly after each kill
            until = len(answered) + moments.randint(1, 2 * KILLED_REQUESTS // KILLS)
            asyncio.run(send_until_gone(url, answered, process, until, moments.uniform(0, LONGEST_WAIT_SECONDS)))
            kills += 1
        database = Database(f"sqlite:///{tmp_path / 'serve.sqlite3'}")
        assert verify_chain(database).intact
        database.close()
    print(f"\n{len(answered):,} answers, {kills} kills")
    with served(tmp_path) as (url, _):
        asyncio.run(send(url, 1))
    database = Database(f"sqlite:///{tmp_path / 'serve.sqlite3'}")
    assert verify_chain(database).intact
    kept = {row["id"]: row["action"] for row in exported_rows(database, since_us=None, with_content=False)}
    database.close()
    assert set(answered.values()) == {"allow", "block"}
    assert answered.items() <= kept.items()


async def send_until_gone(
    url: str, answered: dict[str, str], process: subprocess.Popen[str], until: int, wait_seconds: float
) -> None:
    """Ask with several clients. Some time after so many answers the server is killed, whatever it is about to do."""
    base, numbers = time.time_ns(), itertools.count()
    many = asyncio.Event()

    async def kill() -> None:
        await many.wait()
        await asyncio.sleep(wait_seconds)
        process.kill()

    async def work(client: Any) -> None:
        while True:
            number = next(numbers)
            text = f"{'TRIGGER' if number % 5 == 0 else 'hello'} {base} {number}"
            try:
                answer = await client.post("/v1/moderations", json={"input": text})
            except httpx2.HTTPError:
                return
            assert answer.status_code == 200
            told = answer.json()["corral"]["decisions"][0]
            answered[told["id"]] = told["action"]
            if len(answered) >= until:
                many.set()

    killing = asyncio.create_task(kill())
    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(*(work(client) for _ in range(CLIENTS)))
    await killing
    process.wait(30)


async def send(url: str, count: int) -> None:
    """Texts of all lengths: what is kept by the shape of a batch would show."""
    numbers, lengths = iter(range(count)), random.Random(0)
    base = time.time_ns()

    async def work(client: Any) -> None:
        for number in numbers:
            text = f"hello {base} {number} " + "word " * lengths.randint(1, LONGEST_WORDS)
            while (answer := await client.post("/v1/moderations", json={"input": text})).status_code == 429:
                await asyncio.sleep(float(answer.headers["Retry-After"]))  # the machine is busy with something else
            assert answer.status_code == 200

    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(*(work(client) for _ in range(CLIENTS)))
