"""Reading the log: checking its chain, exporting, pruning, searching and counting."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, func, select, update

from corral.serve.audit.chain import ChainReport, Link, check_chain
from corral.serve.audit.database import Database
from corral.serve.audit.tables import CHAIN, DECISIONS, REVIEWS, of_tenant

_CHUNK: Final = 1000


def verify_chain(database: Database, *, expect: Link | None = None) -> ChainReport:
    """Follow the chain over every row.

    Args:
        database: of the log.
        expect: a row noted earlier that must still be there.

    Raises:
        AuditError: the database failed.
    """
    with database.read() as connection:
        report = check_chain(_rows(connection), _link(connection, "tail"), _link(connection, "head"))
        if expect is None or not report.intact:
            return report
        found = connection.scalar(select(DECISIONS.c.row_hash).where(DECISIONS.c.seq == expect.seq))
        if found is None and _link(connection, "tail") == expect:
            found = expect.row_hash
        if found == expect.row_hash:
            return report
        problem = f"row {expect.seq} is not the one that was noted"
        return ChainReport(report.rows, report.first, report.head, problem)


def exported_rows(database: Database, *, since_us: int | None, with_content: bool) -> Iterator[dict[str, Any]]:
    """Decisions as plain JSON values, oldest first.

    Raises:
        AuditError: the database failed.
    """
    with database.read() as connection:
        for row in _rows(connection, *([DECISIONS.c.at_us >= since_us] if since_us is not None else [])):
            yield as_json(row, with_content=with_content)


def as_json(row: Mapping[str, Any], *, with_content: bool) -> dict[str, Any]:
    """A row with its lists read."""
    values = dict(row) | {"reasons": json.loads(row["reasons"]), "verdicts": json.loads(row["verdicts"])}
    values["measures"] = json.loads(row["measures"] or "{}")
    if not with_content:
        del values["content"]
    return values


def prune_rows(database: Database, before_us: int) -> int:
    """Remove the oldest rows, up to the first that is not older; returns how many.

    The chain's tail moves to the last row removed, so the rest still verifies.

    Raises:
        AuditError: the database failed; nothing was removed.
    """
    with database.write() as connection:
        connection.execute(select(CHAIN.c.seq).where(CHAIN.c.name == "head").with_for_update())
        tail, head = _link(connection, "tail"), _link(connection, "head")
        kept = connection.scalar(select(func.min(DECISIONS.c.seq)).where(DECISIONS.c.at_us >= before_us))
        last = head.seq if kept is None else kept - 1
        if last <= tail.seq:
            return 0
        digest = connection.scalar(select(DECISIONS.c.row_hash).where(DECISIONS.c.seq == last))
        connection.execute(update(CHAIN).where(CHAIN.c.name == "tail").values(seq=last, row_hash=digest))
        gone = select(DECISIONS.c.id).where(DECISIONS.c.seq <= last)
        connection.execute(delete(REVIEWS).where(REVIEWS.c.decision_id.in_(gone)))
        return connection.execute(delete(DECISIONS).where(DECISIONS.c.seq <= last)).rowcount


def erase_content(database: Database, before_us: int) -> int:
    """Erase the kept texts of rows older than a time; the rows and their chain stay. Returns how many.

    Raises:
        AuditError: the database failed; nothing was erased.
    """
    with database.write() as connection:
        old = (DECISIONS.c.at_us < before_us) & DECISIONS.c.content.is_not(None)
        return connection.execute(update(DECISIONS).where(old).values(content=None)).rowcount


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for; ``None`` looks for anything.

    Attributes:
        tenant, action, stage, language, request_id: equal to.
        category: a category or rule that a reason names.
        failed: whether a guard gave no verdict.
        content_hashes: one of these texts.
        since_us: not older than.
        before_seq: older than this row, for the next page.
        unreviewed: only those that nobody reviewed.
        actions: one of these.
    """

    tenant: str | None = None
    action: str | None = None
    stage: str | None = None
    language: str | None = None
    request_id: str | None = None
    category: str | None = None
    failed: bool | None = None
    content_hashes: tuple[str, ...] | None = None
    since_us: int | None = None
    before_seq: int | None = None
    unreviewed: bool = False
    actions: tuple[str, ...] | None = None


_EQUAL: Final = ("tenant", "action", "stage", "language", "request_id", "failed")


def find_decisions(database: Database, search: Search, *, limit: int = 50) -> list[dict[str, Any]]:
    """Decisions that match, newest first, each with its review.

    Raises:
        AuditError: the database failed.
    """
    joined = DECISIONS.outerjoin(REVIEWS, REVIEWS.c.decision_id == DECISIONS.c.id)
    columns = (*DECISIONS.c, REVIEWS.c.label, REVIEWS.c.note, REVIEWS.c.reviewer)
    query = select(*columns).select_from(joined).where(*_conditions(search))
    with database.read() as connection:
        rows = connection.execute(query.order_by(DECISIONS.c.seq.desc()).limit(limit)).mappings().all()
    return [as_json(_plain(row), with_content=True) for row in rows]


def find_decision(database: Database, id: str, *, tenant: str | None = None) -> dict[str, Any] | None:
    """One decision by its id, with its review; with ``tenant`` only where it is that tenant's.

    Raises:
        AuditError: the database failed.
    """
    joined = DECISIONS.outerjoin(REVIEWS, REVIEWS.c.decision_id == DECISIONS.c.id)
    columns = (*DECISIONS.c, REVIEWS.c.label, REVIEWS.c.categories, REVIEWS.c.note, REVIEWS.c.reviewer)
    with database.read() as connection:
        query = select(*columns).select_from(joined).where(DECISIONS.c.id == id, *of_tenant(DECISIONS.c.tenant, tenant))
        row = connection.execute(query).mappings().first()
    return None if row is None else as_json(_plain(row), with_content=True)


def _conditions(search: Search) -> list[ColumnElement[bool]]:
    conditions = [DECISIONS.c[name] == getattr(search, name) for name in _EQUAL if getattr(search, name) is not None]
    if search.category is not None:
        conditions.append(DECISIONS.c.reasons.contains(search.category, autoescape=True))
    if search.content_hashes is not None:
        conditions.append(DECISIONS.c.content_hash.in_(search.content_hashes))
    if search.since_us is not None:
        conditions.append(DECISIONS.c.at_us >= search.since_us)
    if search.before_seq is not None:
        conditions.append(DECISIONS.c.seq < search.before_seq)
    if search.unreviewed:
        conditions.append(REVIEWS.c.decision_id.is_(None))
    if search.actions is not None:
        conditions.append(DECISIONS.c.action.in_(search.actions))
    return conditions


def _link(connection: Connection, name: str) -> Link:
    row = connection.execute(select(CHAIN.c.seq, CHAIN.c.row_hash).where(CHAIN.c.name == name)).one()
    return Link(row.seq, row.row_hash)


def _rows(connection: Connection, *conditions: ColumnElement[bool]) -> Iterator[dict[str, Any]]:
    """Every row in order, read a piece at a time."""
    after = 0
    while True:
        query = select(DECISIONS).where(DECISIONS.c.seq > after, *conditions).order_by(DECISIONS.c.seq).limit(_CHUNK)
        rows = connection.execute(query).mappings().all()
        yield from map(_plain, rows)
        if len(rows) < _CHUNK:
            return
        after = rows[-1]["seq"]


def _plain(row: RowMapping) -> dict[str, Any]:
    return {str(name): value for name, value in row.items()}
