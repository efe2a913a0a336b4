"""No answer leaves without its row; a client that goes away frees its place; a stop answers what was let in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytest.importorskip("sqlalchemy", reason="the serve extra is not installed")

from sqlalchemy import event

from corral.guards.scripted import ScriptedGuard
from corral.serve.audit.database import AuditError, Database
from corral.serve.audit.queries import Search, find_decisions, verify_chain


def fail_after(monkeypatch: pytest.MonkeyPatch, server: Any, rows: int) -> None:
    """The log takes so many more rows, and then none: a full disk, or a database that is gone."""
    append, left = server.audit.append, [rows]

    async def limited(entries: Any) -> None:
        left[0] -= len(entries)
        if left[0] < 0:
            raise AuditError("the audit database failed (SQLITE_FULL)")
        await append(entries)

    monkeypatch.setattr(server.audit, "append", limited)


def test_without_a_row_there_is_no_answer(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running = start(reply=lambda _: "the model's words")
    fail_after(monkeypatch, running.server, 0)
    for answer in (running.moderate("hello"), running.chat("hello"), running.chat("hello", stream=True)):
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "audit_unavailable"
        assert int(answer.headers["retry-after"]) > 0
    assert running.metric("audit_failures_total") == 3
    assert running.rows() == []


@contextmanager
def full_disk(database: Database) -> Iterator[None]:
    """SQLite's own way to act a full disk: no page more than there are."""

    def limit(connection: Any, _: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    event.listen(database.engine, "connect", limit)
    database.engine.dispose()
    try:
        yield
    finally:
        event.remove(database.engine, "connect", limit)
        database.engine.dispose()


def test_a_full_disk_stops_every_answer_until_there_is_room_again(start: Any) -> None:
    # Texts are kept, so that every row needs pages of its own.
    running = start(policies={"default": "content: full\n"}, reply=lambda _: f"the model's words {'x ' * 50_000}")
    long = "hello " * 20_000
    assert running.moderate(long).status_code == 200
    with full_disk(running.server.database):
        for answer in (
            running.moderate(long),
            running.moderate([long, "hello"]),
            running.chat(long),
            running.chat(long, stream=True),
            running.chat("hello"),  # its own row may fit; that of the reply does not
        ):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "audit_unavailable"
            assert "model's words" not in answer.text
        assert running.metric("audit_failures_total") == 5
        running.client.portal.call(running.server.health.check)
        assert running.client.get("/readyz").status_code == 503
        assert running.client.get("/healthz").status_code == 200
    assert running.moderate(long).status_code == 200
    running.client.portal.call(running.server.health.check)
    assert running.client.get("/readyz").status_code == 200
    report = verify_chain(running.server.database)
    assert report.intact
    assert report.rows - len(running.rows(stage="prompt")) == 2


def test_a_reply_whose_row_cannot_be_written_does_not_leave(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running = start(reply=lambda _: "the model's words")
    fail_after(monkeypatch, running.server, 1)
    answer = running.chat("hello")
    assert answer.status_code == 503
    fail_after(monkeypatch, running.server, 1)
    streamed = running.chat("hello", stream=True)
    assert "audit_unavailable" in streamed.text
    for text in (answer.text, streamed.text):
        assert "model's words" not in text


def test_a_stream_ends_at_the_first_window_whose_row_cannot_be_written(
    start: Any, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = "All is well. " * 100
    running = start(reply=lambda _: reply)
    fail_after(monkeypatch, running.server, 3)
    answer = running.chat("hello", stream=True)
    text = said(answer.text)
    assert reply.startswith(text)
    # The prompt's row, then two windows of 400 characters that share 200.
    assert len(text) == 400
    assert "[DONE]" not in answer.text


def test_readiness_tells_of_a_log_that_cannot_be_written(start: Any) -> None:
    running = start()
    running.server.audit.problem = "the audit database failed (SQLITE_FULL)"
    running.client.portal.call(running.server.health.check)
    assert running.client.get("/readyz").status_code == 503
    running.server.audit.problem = None
    running.client.portal.call(running.server.health.check)
    assert running.client.get("/readyz").status_code == 200


def test_readiness_tells_of_a_guard_that_fails(start: Any) -> None:
    running = start(guards=[ScriptedGuard(faults={"What time": "raise"})])
    assert running.client.get("/readyz").status_code == 503
    assert running.client.get("/healthz").status_code == 200
    assert running.metric("ready") == 0


def test_a_client_that_goes_away_frees_its_place(tmp_path: Path, server_in: Any, listening: Any) -> None:
    server = server_in(tmp_path, guards=[ScriptedGuard(delay=0.5)], limits={"batch_items": 1})
    with listening(server) as url:
        first = threading.Thread(target=lambda: httpx2.post(f"{url}/v1/moderations", json={"input": "a"}, timeout=60))
        first.start()
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(f"{url}/v1/moderations", json={"input": [f"b {n}" for n in range(100)]}, timeout=0.3)
        deadline = time.monotonic() + 30
        while server.moderation.pool.waiting["scripted"][0] > 0:
            assert time.monotonic() < deadline, "the place in the queue was not given back"
            time.sleep(0.05)
        first.join()
    assert server.metrics.registry.get_sample_value("corral_rejected_total", {"reason": "disconnected"}) == 1


def test_a_stop_answers_what_was_let_in(tmp_path: Path, server_in: Any, listening: Any) -> None:
    entered, codes = threading.Event(), list[int]()

    def slowly(text: str, _target: str) -> float:
        if text == "hello":
            entered.set()
            time.sleep(1.0)
        return 0.01

    def ask(url: str) -> None:
        codes.append(httpx2.post(f"{url}/v1/moderations", json={"input": "hello"}, timeout=60).status_code)

    with listening(server_in(tmp_path, guards=[ScriptedGuard(rule=slowly)])) as url:
        asking = threading.Thread(target=ask, args=(url,))
        asking.start()
        assert entered.wait(60)
    asking.join()
    assert codes == [200]


def test_turns_that_were_judged_are_not_judged_again(start: Any) -> None:
    seen: list[str] = []

    def rule(text: str, _target: str) -> float:
        seen.append(text)
        return 0.01

    running = start(guards=[ScriptedGuard(rule=rule)])
    first = {"role": "user", "content": "one"}
    running.chat(first)
    running.chat(first, {"role": "assistant", "content": "As you like."}, {"role": "user", "content": "two"})
    assert [text for text in seen if not text.startswith("What time")] == ["one", "As you like.", "two", "As you like."]


def test_every_row_of_a_request_can_be_found_by_its_id(tmp_path: Path, start: Any) -> None:
    running = start()
    answer = running.chat("hello")
    found = find_decisions(running.server.database, Search(request_id=answer.headers["x-request-id"]))
    assert {row["stage"] for row in found} == {"prompt", "response"}
    assert answer.json()["corral"]["request_id"] == answer.headers["x-request-id"]
