"""The tables, as the newest migration leaves them. Times are whole microseconds since the epoch, in UTC."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, ColumnElement, Integer, LargeBinary, MetaData, String, Table, Text

METADATA: Final = MetaData()
LARGEST_SEQ: Final = 2**63 - 1
"""What a ``BigInteger`` holds."""

DECISIONS: Final = Table(
    "decisions",
    METADATA,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(40), nullable=False, unique=True),
    Column("at_us", BigInteger, nullable=False, index=True),
    Column("request_id", String(64), nullable=False, index=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("key_id", String(40), nullable=False),
    Column("route", String(64), nullable=False),
    Column("stage", String(32), nullable=False),
    Column("action", String(16), nullable=False, index=True),
    Column("taken", String(16), nullable=False),
    Column("flagged", Boolean, nullable=True),
    Column("failed", Boolean, nullable=False),
    Column("policy", String(255), nullable=False),
    Column("policy_hash", String(16), nullable=False),
    Column("reasons", Text, nullable=False),
    Column("verdicts", Text, nullable=False),
    Column("language", String(16), nullable=False),
    Column("chars", Integer, nullable=False),
    Column("latency_us", BigInteger, nullable=False),
    Column("content_hash", String(64), nullable=False, index=True),
    Column("prev_hash", String(64), nullable=False),
    Column("row_hash", String(64), nullable=False),
    # Outside of the chain, so that it can be erased; ``content_hash`` stands for it there.
    Column("content", Text, nullable=True),
    # JSON of what the model measured of itself, null where it measured nothing; in the chain where it is not null.
    Column("measures", Text, nullable=True),
)

CHAIN: Final = Table(
    "chain",
    METADATA,
    Column("name", String(8), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("row_hash", String(64), nullable=False),
)
"""Two rows: ``tail``, the last row that was pruned (seq 0 before any), and ``head``, the last that was written."""

REVIEWS: Final = Table(
    "reviews",
    METADATA,
    Column("decision_id", String(40), primary_key=True),
    Column("label", String(16), nullable=False),
    Column("categories", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("reviewer", String(64), nullable=False),
    Column("at_us", BigInteger, nullable=False),
)

POLICIES: Final = Table(
    "policies",
    METADATA,
    Column("policy_hash", String(16), primary_key=True),
    Column("tenant", String(64), primary_key=True),
    Column("text", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)

KEYS: Final = Table(
    "api_keys",
    METADATA,
    Column("id", String(40), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("scopes", Text, nullable=False),
    Column("per_minute", Integer, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("revoked_us", BigInteger, nullable=True),
)

SCHEMA: Final = Table("schema_version", METADATA, Column("version", Integer, primary_key=True))


def of_tenant(column: ColumnElement[str], tenant: str | None) -> list[ColumnElement[bool]]:
    """The condition that a row is of a tenant; none where rows of all tenants are meant."""
    return [] if tenant is None else [column == tenant]
