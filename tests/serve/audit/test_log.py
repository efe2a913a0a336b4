"""The audit log: what is committed, chained, checked, exported and pruned; and what happens when it cannot be."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the serve extra is not installed")

from sqlalchemy import Connection, delete, insert, update

from corral.core.errors import ConfigError, RunError
from corral.serve.audit.chain import GENESIS, Link, row_hash
from corral.serve.audit.database import AuditError, Database
from corral.serve.audit.log import AuditEntry, AuditLog, append_rows
from corral.serve.audit.migrations import MIGRATIONS
from corral.serve.audit.queries import erase_content, exported_rows, prune_rows, verify_chain
from corral.serve.audit.tables import CHAIN, DECISIONS, METADATA, SCHEMA


def entry(number: int, **values: Any) -> AuditEntry:
    defaults: dict[str, Any] = {
        "id": f"id-{number}", "at_us": number * 1_000_000, "request_id": f"r-{number}", "tenant": "default",
        "key_id": "", "route": "/v1/moderations", "stage": "input", "action": "allow", "taken": "allow",
        "flagged": False, "failed": False, "policy": "default 1", "policy_hash": "0" * 16, "reasons": "[]",
        "verdicts": "[]", "language": "en", "chars": 5, "latency_us": 1000, "content_hash": "0" * 64,
        "content": "[]",
    }  # fmt: skip
    return AuditEntry(**{**defaults, **values})


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'audit.sqlite3'}")
    yield opened
    opened.close()


def append(database: Database, count: int, first: int = 1) -> None:
    with database.write() as connection:
        append_rows(connection, [entry(number) for number in range(first, first + count)])


def test_rows_are_chained_and_verify(database: Database) -> None:
    append(database, 3)
    append(database, 2, first=4)
    report = verify_chain(database)
    assert (report.intact, report.rows, report.first, report.head.seq) == (True, 5, 1, 5)


def test_an_empty_log_verifies(database: Database) -> None:
    assert verify_chain(database) == verify_chain(database, expect=Link(0, GENESIS))
    assert verify_chain(database).rows == 0


@pytest.mark.parametrize("column", [c.name for c in DECISIONS.c if c.name not in ("seq", "content")])
def test_changing_any_column_shows(database: Database, column: str) -> None:
    append(database, 3)
    values: dict[str, Any] = {"flagged": True, "failed": True, "at_us": 5, "chars": 9, "latency_us": 9}
    with database.write() as connection:
        connection.execute(update(DECISIONS).where(DECISIONS.c.seq == 2).values({column: values.get(column, "other")}))
    assert not verify_chain(database).intact


def test_removing_rows_shows_wherever_they_were(database: Database) -> None:
    append(database, 5)
    for seq, problem in ((5, "ends at row 4"), (3, "row 3 is missing"), (1, "row 1 is missing")):
        with database.write() as connection:
            connection.execute(delete(DECISIONS).where(DECISIONS.c.seq == seq))
        report = verify_chain(database)
        assert report.problem is not None
        assert problem in report.problem


def test_a_chain_that_was_forged_whole_shows_against_a_noted_head(database: Database) -> None:
    append(database, 3)
    noted = verify_chain(database).head
    with database.write() as connection:
        connection.execute(delete(DECISIONS))
        connection.execute(update(CHAIN).values(seq=0, row_hash=GENESIS))
        append_rows(connection, [entry(number, action="block") for number in range(1, 4)])
    assert verify_chain(database).intact
    assert not verify_chain(database, expect=noted).intact


def test_pruning_keeps_the_rest_verifiable_and_a_noted_head_known(database: Database) -> None:
    append(database, 6)
    assert prune_rows(database, before_us=4_000_000) == 3
    report = verify_chain(database)
    assert (report.intact, report.rows, report.first) == (True, 3, 4)
    append(database, 1, first=7)
    assert prune_rows(database, before_us=100_000_000) == 4
    assert verify_chain(database, expect=verify_chain(database).head).intact
    assert prune_rows(database, before_us=100_000_000) == 0


def test_erasing_texts_leaves_the_chain_whole(database: Database) -> None:
    append(database, 4)
    assert erase_content(database, before_us=3_000_000) == 2
    assert verify_chain(database).intact
    kept = [row["content"] for row in exported_rows(database, since_us=None, with_content=True)]
    assert kept == [None, None, "[]", "[]"]


def test_exports_leave_texts_out_unless_asked(database: Database) -> None:
    append(database, 3)
    rows = list(exported_rows(database, since_us=2_000_000, with_content=False))
    assert [row["seq"] for row in rows] == [2, 3]
    assert all("content" not in row for row in rows)


def test_many_requests_share_few_commits_and_each_waits_for_its_own(database: Database) -> None:
    commits: list[int] = []

    async def main() -> None:
        log = AuditLog(database, timeout=20, observe=lambda rows, _: commits.append(rows))
        await asyncio.gather(*(log.append([entry(number)]) for number in range(1, 101)))
        await asyncio.to_thread(log.close)

    asyncio.run(main())
    assert sum(commits) == 100
    assert len(commits) < 100
    assert verify_chain(database).rows == 100


def test_a_full_disk_fails_closed_and_says_so(database: Database) -> None:
    append(database, 1)
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    database.engine.dispose()

    async def main() -> None:
        log = AuditLog(database, timeout=5)
        with pytest.raises(AuditError, match="SQLITE_FULL"):
            await log.append([entry(2, content="x" * 100_000)])
        await asyncio.to_thread(log.close)

    from sqlalchemy import event

    # SQLite's own way to act a full disk: no page more than there are.
    event.listen(database.engine, "connect", lambda connection, _: connection.execute(f"PRAGMA max_page_count={pages}"))
    asyncio.run(main())
    assert verify_chain(database).rows == 1


def test_a_closed_log_takes_nothing(database: Database) -> None:
    async def main() -> None:
        log = AuditLog(database, timeout=5)
        await asyncio.to_thread(log.close)
        with pytest.raises(AuditError):
            await log.append([entry(1)])

    asyncio.run(main())


def test_a_folder_made_for_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    Database(f"sqlite:///{tmp_path / 'new' / 'audit.sqlite3'}").close()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_sqlite_survives_a_power_cut(database: Database) -> None:
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    from sqlalchemy import inspect

    with database.read() as connection:
        found = inspect(connection)
        for table in METADATA.sorted_tables:
            assert {c["name"] for c in found.get_columns(table.name)} == {c.name for c in table.c}, table.name


def append_without_measures(connection: Connection, entries: list[AuditEntry]) -> None:
    """Rows as they were written before there was a column for measures."""
    columns = [column for column in DECISIONS.c if column.name != "measures"]
    before = GENESIS
    for seq, each in enumerate(entries, start=1):
        row = asdict(each) | {"seq": seq, "prev_hash": before}
        before = row_hash(row)
        values = row | {"row_hash": before}
        connection.execute(insert(DECISIONS).values({column: values[column.name] for column in columns}))
    connection.execute(update(CHAIN).where(CHAIN.c.name == "head").values(seq=len(entries), row_hash=before))


def test_measures_are_in_the_chain_and_in_the_export(database: Database) -> None:
    with database.write() as connection:
        append_rows(connection, [entry(1), entry(2, measures='{"gate_glad":0.5}')])
    assert verify_chain(database).intact
    rows = list(exported_rows(database, since_us=None, with_content=False))
    assert [row["measures"] for row in rows] == [{}, {"gate_glad": 0.5}]
    for changed in ("{}", None):
        with database.write() as connection:
            connection.execute(update(DECISIONS).where(DECISIONS.c.seq == 2).values(measures=changed))
        assert "row 2 was changed" in str(verify_chain(database).problem)


def test_an_older_schema_is_brought_up_to_date_with_its_rows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.sqlite3'}"
    from sqlalchemy import create_engine

    old = create_engine(url)
    with old.begin() as connection:
        MIGRATIONS[0](connection)
        connection.execute(insert(SCHEMA).values(version=1))
        append_without_measures(connection, [entry(1), entry(2)])
    old.dispose()
    with pytest.raises(RunError, match="schema 1"):
        Database(url, migrate=False)
    database = Database(url)
    append(database, 1, first=3)
    report = verify_chain(database)
    assert (report.intact, report.rows) == (True, 3)
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT version FROM schema_version").scalar() == len(MIGRATIONS)
    database.close()


def test_a_newer_schema_is_refused(database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(SCHEMA).values(version=len(MIGRATIONS) + 1))
    with pytest.raises(RunError, match="newer"):
        Database(str(database.engine.url))


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Database(url)


WRITER = """
import asyncio, sys
from corral.serve.audit.database import Database
from corral.serve.audit.log import AuditEntry, AuditLog

def entry(n):
    return AuditEntry(id=f"id-{n}", at_us=n, request_id="r", tenant="t", key_id="", route="x", stage="input",
        action="allow", taken="allow", flagged=False, failed=False, policy="p", policy_hash="h", reasons="[]",
        verdicts="[]", language="en", chars=1, latency_us=1, content_hash="0" * 64)

async def one(log, n):
    await log.append([entry(n)])
    print(f"id-{n}", flush=True)  # the answer leaves

async def main():
    log = AuditLog(Database(sys.argv[1]), timeout=20)
    start = int(sys.argv[2])
    for first in range(start, start + 100_000, 8):
        await asyncio.gather(*(one(log, n) for n in range(first, first + 8)))

asyncio.run(main())
"""


def test_after_kill_9_every_answered_decision_has_its_row(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'killed.sqlite3'}"
    answered: list[str] = []
    for attempt in range(3):
        out = tmp_path / f"answers-{attempt}"
        with out.open("w") as stream:
            command = [sys.executable, "-c", WRITER, url, str(1_000_000 * attempt)]
            process = subprocess.Popen(command, stdout=stream, env=os.environ | {"PYTHONPATH": _sources()})
            deadline = time.monotonic() + 120
            while len(out.read_text().splitlines()) < 20 + 17 * attempt:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait(30)
        answered += [line for line in out.read_text().splitlines() if line]
        database = Database(url)  # restarts cleanly
        assert verify_chain(database).intact
        kept = {row["id"] for row in exported_rows(database, since_us=None, with_content=False)}
        assert set(answered) <= kept
        database.close()


def _sources() -> str:
    import corral

    return str(Path(corral.__file__).parent.parent)


def test_a_row_that_does_not_fit_costs_no_other_request_its_answer(database: Database) -> None:
    async def main() -> list[Any]:
        log = AuditLog(database, timeout=20)
        # More than a 64-bit integer holds: the driver cannot write it.
        odd = [entry(1000 + number, chars=2**70) for number in (0, 1)]
        good = [entry(number) for number in range(1, 31)]
        asked = [*good[:7], odd[0], *good[7:20], odd[1], *good[20:]]
        outcomes = await asyncio.gather(*(log.append([each]) for each in asked), return_exceptions=True)
        assert log.problem is None  # nothing is wrong with the database
        await asyncio.to_thread(log.close)
        return outcomes

    outcomes = asyncio.run(main())
    assert sum(isinstance(outcome, AuditError) for outcome in outcomes) == 2
    assert outcomes.count(None) == 30
    report = verify_chain(database)
    assert (report.intact, report.rows) == (True, 30)


def test_a_database_that_fails_is_not_asked_again_for_every_row(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def failing(_connection: Any, entries: Any) -> None:
        tried.append(len(entries))
        raise AuditError("the audit database failed (SQLITE_FULL)")

    monkeypatch.setattr("corral.serve.audit.log.append_rows", failing)

    async def main() -> None:
        log = AuditLog(database, timeout=20)
        outcomes = await asyncio.gather(*(log.append([entry(n)]) for n in range(50)), return_exceptions=True)
        assert all(isinstance(outcome, AuditError) for outcome in outcomes)
        assert log.problem is not None
        await asyncio.to_thread(log.close)

    asyncio.run(main())
    assert sum(tried) == 50


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="in memory"):
        Database(url)
