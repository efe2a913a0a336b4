"""The audit log on a real PostgreSQL, where a server is installed: the chain, two writers, and a restart under load."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the serve extra is not installed")
pytest.importorskip("psycopg", reason="psycopg is not installed")

from corral.serve.audit.database import Database
from corral.serve.audit.log import AuditEntry, AuditLog
from corral.serve.audit.queries import exported_rows, prune_rows, verify_chain
from corral.serve.keys import KeyStore


def _binary(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


class PostgreSQL:
    """A server of our own, on a socket in a folder of its own."""

    def __init__(self, folder: Path, user: str | None) -> None:
        self._folder = folder
        self._user = user
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._run("initdb", "-D", str(folder / "data"), "-U", "corral", "-A", "trust", "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://corral@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -k {self._folder}"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-l", log, "-o", options, "-w", "-t", "90", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "stop")

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [str(_binary(name)), *arguments], check=True, user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL
        )


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    if _binary("initdb") is None or _binary("pg_ctl") is None:
        pytest.skip("no PostgreSQL server is installed")
    user = None
    folder = Path(tempfile.mkdtemp(prefix="corral-pg-"))
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        known = {entry.pw_name for entry in pwd.getpwall()}
        user = next((name for name in ("postgres", "nobody") if name in known), None)
        if user is None:
            pytest.skip("no user to run PostgreSQL as")
        shutil.chown(folder, user)
    server = PostgreSQL(folder, user)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def entry(number: int) -> AuditEntry:
    return AuditEntry(
        id=f"id-{number}", at_us=time.time_ns() // 1000, request_id="r", tenant="t", key_id="", route="x",
        stage="input", action="allow", taken="allow", flagged=None, failed=True, policy="p", policy_hash="h",
        reasons='["é"]', verdicts="[]", language="en", chars=1, latency_us=1, content_hash="0" * 64, content="text",
    )  # fmt: skip


def test_rows_keys_and_pruning_work_as_on_sqlite(postgresql: PostgreSQL) -> None:
    database = Database(postgresql.url)
    before = verify_chain(database).rows

    async def main() -> None:
        # Two writers, as two servers have.
        logs = [AuditLog(database, timeout=30), AuditLog(database, timeout=30)]
        await asyncio.gather(*(logs[n % 2].append([entry(n)]) for n in range(40)))
        for log in logs:
            await asyncio.to_thread(log.close)

    asyncio.run(main())
    report = verify_chain(database)
    assert (report.intact, report.rows) == (True, before + 40)
    keys = KeyStore(database)
    key, secret = keys.create("a")
    assert keys.find(secret) == key
    assert prune_rows(database, before_us=time.time_ns()) == before + 40
    assert verify_chain(database).intact
    database.close()


def test_a_restart_under_load_loses_nothing(postgresql: PostgreSQL) -> None:
    database = Database(postgresql.url)
    answered: list[str] = []

    async def main() -> None:
        log = AuditLog(database, timeout=60)

        async def one(number: int) -> None:
            await log.append([entry(number)])
            answered.append(f"id-{number}")

        async def restart() -> None:
            await asyncio.sleep(0.2)
            await asyncio.to_thread(postgresql.stop)
            await asyncio.to_thread(postgresql.start)

        restarting = asyncio.create_task(restart())
        number = 1000
        while not restarting.done() or number < 1200:
            await asyncio.gather(*(one(number + i) for i in range(5)))
            number += 5
        await restarting
        await asyncio.to_thread(log.close)

    asyncio.run(main())
    kept = [row["id"] for row in exported_rows(database, since_us=None, with_content=False)]
    assert len(kept) == len(set(kept))
    assert set(answered) <= set(kept)
    assert verify_chain(database).intact
    database.close()


def test_a_server_whose_database_restarts_under_load_answers_nothing_without_its_row(
    postgresql: PostgreSQL, tmp_path: Path, server_in: Any, listening: Any
) -> None:
    httpx2 = pytest.importorskip("httpx2")
    answers: list[tuple[int, str]] = []
    over = threading.Event()

    def ask(url: str, name: int) -> None:
        with httpx2.Client(base_url=url, timeout=120, headers={"Authorization": f"Bearer {secret}"}) as client:
            number = 0
            while not over.is_set() or number < 20:
                number += 1
                answer = client.post("/v1/moderations", json={"input": f"hello {name} {number}"})
                told = answer.json()["corral"]["decisions"][0]["id"] if answer.status_code == 200 else ""
                answers.append((answer.status_code, told))

    server = server_in(tmp_path, database=postgresql.url, limits={"audit_seconds": 60})
    _, secret = server.keys.create("load")
    with listening(server) as url:
        asking = [threading.Thread(target=ask, args=(url, name)) for name in range(4)]
        for each in asking:
            each.start()
        while len(answers) < 20:
            time.sleep(0.01)
        postgresql.stop()
        postgresql.start()
        restarted_after = len(answers)
        while len(answers) < restarted_after + 20:
            time.sleep(0.01)
        over.set()
        for each in asking:
            each.join()
    # The log waits for its database, so nobody is refused; and every answer has its row.
    assert {status for status, _ in answers} == {200}
    database = Database(postgresql.url)
    kept = [row["id"] for row in exported_rows(database, since_us=None, with_content=False)]
    assert {told for _, told in answers} <= set(kept)
    assert len(kept) == len(set(kept))
    assert verify_chain(database).intact
    database.close()
