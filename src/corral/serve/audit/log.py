"""Writing decisions: many requests share one transaction, and each waits until its rows are committed."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, func, insert, select, update

from corral.core.errors import CorralError
from corral.serve.audit.chain import Link, row_hash
from corral.serve.audit.database import AuditError, Database
from corral.serve.audit.tables import CHAIN, DECISIONS

_LARGEST_GROUP: Final = 1024
_FIRST_RETRY_SECONDS: Final = 0.05
_LONGEST_RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One decision to be recorded; columns of ``tables.DECISIONS``, those of the chain aside."""

    id: str
    at_us: int
    request_id: str
    tenant: str
    key_id: str
    route: str
    stage: str
    action: str
    taken: str
    flagged: bool | None
    failed: bool
    policy: str
    policy_hash: str
    reasons: str
    verdicts: str
    language: str
    chars: int
    latency_us: int
    content_hash: str
    content: str | None = field(default=None, repr=False)
    measures: str | None = None


@dataclass(slots=True)
class _Group:
    """What one request wants committed."""

    entries: Sequence[AuditEntry]
    future: asyncio.Future[None]
    expires_at: float


class AuditLog:
    """The one writer of the chain in this process.

    Several processes may share a PostgreSQL database: a transaction locks the chain's head.

    Args:
        database: where the rows go.
        timeout: seconds within which rows must be committed, retries after lost connections included.
        observe: told of every commit, in the writer's thread: rows and seconds.

    Attributes:
        problem: why the last commit failed, ``None`` when it went well.
    """

    def __init__(
        self, database: Database, *, timeout: float, observe: Callable[[int, float], None] | None = None
    ) -> None:
        self.database = database
        self._timeout = timeout
        self._observe = observe
        self._groups: queue.SimpleQueue[_Group | None] = queue.SimpleQueue()
        self._closed = False
        self.problem: str | None = None
        self._thread = threading.Thread(target=self._work, name="audit-log", daemon=True)
        self._thread.start()

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        """Record decisions; returns when they are committed.

        Raises:
            AuditError: they are not, or nobody knows; the answer must not leave.
        """
        if not entries:
            return
        if self._closed:
            raise AuditError("the audit log is closed")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._groups.put(_Group(entries, future, time.monotonic() + self._timeout))
        try:
            async with asyncio.timeout(self._timeout + _LONGEST_RETRY_SECONDS):
                await future
        except TimeoutError as error:
            raise AuditError(f"no commit within {self._timeout:g} s", where=self.database.shown) from error

    def close(self, *, wait_seconds: float = 10.0) -> None:
        """Write what was asked for, and end the thread."""
        self._closed = True
        self._groups.put(None)
        self._thread.join(wait_seconds)

    def _work(self) -> None:
        while (first := self._groups.get()) is not None:
            groups, ended = self._gathered(first)
            self._settle(groups)
            if ended:
                return

    def _gathered(self, first: _Group) -> tuple[list[_Group], bool]:
        """The first group and whatever else waits, up to a size; and whether the end was asked for."""
        groups, rows = [first], len(first.entries)
        while rows < _LARGEST_GROUP:
            try:
                group = self._groups.get_nowait()
            except queue.Empty:
                break
            if group is None:
                return groups, True
            groups.append(group)
            rows += len(group.entries)
        return groups, False

    def _settle(self, groups: Sequence[_Group]) -> None:
        """Write the groups in one transaction, and tell each how it went.

        Where a value of one does not fit, each half is written apart: it costs the others no answer.
        """
        entries = [entry for group in groups for entry in group.entries]
        failure: AuditError | None = None
        try:
            self._write_retrying(entries, deadline=min(group.expires_at for group in groups))
        except AuditError as error:
            failure = error
        except Exception as error:  # a defect must not end the writer's thread
            failure = AuditError(f"the audit log failed ({type(error).__name__})")
        if failure is not None and failure.of_values and len(groups) > 1:
            middle = len(groups) // 2
            self._settle(groups[:middle])
            self._settle(groups[middle:])
            return
        if failure is None or not failure.of_values:
            self.problem = None if failure is None else failure.message
        for group in groups:
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits any more
                group.future.get_loop().call_soon_threadsafe(_resolve, group.future, failure)

    def _write_retrying(self, entries: Sequence[AuditEntry], *, deadline: float) -> None:
        wait = _FIRST_RETRY_SECONDS
        attempt = 0
        while True:
            started = time.monotonic()
            try:
                with self.database.write() as connection:
                    # A commit whose answer was lost may have happened; a transaction is there whole or not at all.
                    if attempt == 0 or not _is_there(connection, entries[0].id):
                        append_rows(connection, entries)
            except AuditError as error:
                attempt += 1
                if not error.transient or time.monotonic() + wait > deadline:
                    raise
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_RETRY_SECONDS)
            else:
                if self._observe is not None:
                    self._observe(len(entries), time.monotonic() - started)
                return


def append_rows(connection: Connection, entries: Sequence[AuditEntry]) -> Link:
    """Chain and insert rows in a transaction that writes; returns the new head."""
    head = connection.execute(
        select(CHAIN.c.seq, CHAIN.c.row_hash).where(CHAIN.c.name == "head").with_for_update()
    ).one()
    link = Link(head.seq, head.row_hash)
    rows: list[dict[str, Any]] = []
    for entry in entries:
        row = asdict(entry) | {"seq": link.seq + 1, "prev_hash": link.row_hash}
        row["row_hash"] = row_hash(row)
        link = Link(row["seq"], row["row_hash"])
        rows.append(row)
    connection.execute(insert(DECISIONS), rows)
    connection.execute(update(CHAIN).where(CHAIN.c.name == "head").values(seq=link.seq, row_hash=link.row_hash))
    return link


def _is_there(connection: Connection, id: str) -> bool:
    return bool(connection.scalar(select(func.count()).select_from(DECISIONS).where(DECISIONS.c.id == id)))


def _resolve(future: asyncio.Future[None], failure: CorralError | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
