"""The hash chain: every row's hash covers its fields and the hash of the row before it.

Changing, removing or inserting a row breaks every hash after it; taking rows off the end breaks the recorded head.
Whoever can write the database can forge a whole new chain: ``corral serve audit verify`` prints the head so that it can
be kept elsewhere and compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from corral.core.files import sha256_json

GENESIS: Final = "0" * 64
CHAINED: Final = (
    "seq", "id", "at_us", "request_id", "tenant", "key_id", "route", "stage", "action", "taken", "flagged", "failed",
    "policy", "policy_hash", "reasons", "verdicts", "language", "chars", "latency_us", "content_hash", "prev_hash",
)  # fmt: skip
"""Columns that the hash covers, all but the hash itself, the erasable text, and what follows."""
CHAINED_WHERE_SET: Final = ("measures",)
"""Later columns: covered where they are not null, so that rows which are older than they are verify as before."""


def row_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a row's chained columns."""
    later = [row[column] for column in CHAINED_WHERE_SET if row[column] is not None]
    return sha256_json([*(row[column] for column in CHAINED), *later])


@dataclass(frozen=True, slots=True)
class Link:
    """A place in the chain: a row's number and hash."""

    seq: int
    row_hash: str


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What checking the chain found.

    Attributes:
        rows: how many were checked.
        first: number of the first row that is kept, ``None`` when there is none.
        head: the last row.
        problem: where and how the chain is broken, ``None`` when it is whole.
    """

    rows: int
    first: int | None
    head: Link
    problem: str | None

    @property
    def intact(self) -> bool:
        """Whether the chain is whole."""
        return self.problem is None


def check_chain(rows: Iterable[Mapping[str, Any]], tail: Link, head: Link) -> ChainReport:
    """Follow the chain.

    Args:
        rows: in order of ``seq``.
        tail: what the first row is chained to.
        head: what the last row must be.
    """
    before = tail
    count, first, problem = 0, None, None
    for row in rows:
        first = row["seq"] if first is None else first
        if row["seq"] != before.seq + 1:
            problem = (
                f"row {before.seq + 1} is missing" if row["seq"] > before.seq else f"row {row['seq']} is misplaced"
            )
        elif row["prev_hash"] != before.row_hash:
            problem = f"row {row['seq']} does not follow from row {before.seq}"
        elif row["row_hash"] != row_hash(row):
            problem = f"row {row['seq']} was changed"
        if problem is not None:
            break
        count += 1
        before = Link(row["seq"], row["row_hash"])
    if problem is None and before != head:
        problem = (
            f"the log ends at row {before.seq}, its head says {head.seq}"
            if before.seq != head.seq
            else "the head was changed"
        )
    return ChainReport(count, first, before, problem)
