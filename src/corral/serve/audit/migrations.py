"""Numbered changes of the schema, oldest first. One that was released is never edited: later ones follow it.

Each runs in the transaction that also records its number, so a failed migration leaves the database as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection

from corral.serve.audit.chain import GENESIS


def _decisions_and_chain(connection: Connection) -> None:
    """1: the log itself."""
    run = connection.exec_driver_sql
    run("CREATE TABLE schema_version (version INTEGER NOT NULL PRIMARY KEY)")
    run(
        "CREATE TABLE decisions ("
        " seq BIGINT NOT NULL PRIMARY KEY, id VARCHAR(40) NOT NULL UNIQUE, at_us BIGINT NOT NULL,"
        " request_id VARCHAR(64) NOT NULL, tenant VARCHAR(64) NOT NULL, key_id VARCHAR(40) NOT NULL,"
        " route VARCHAR(64) NOT NULL, stage VARCHAR(32) NOT NULL, action VARCHAR(16) NOT NULL,"
        " taken VARCHAR(16) NOT NULL, flagged BOOLEAN, failed BOOLEAN NOT NULL, policy VARCHAR(255) NOT NULL,"
        " policy_hash VARCHAR(16) NOT NULL, reasons TEXT NOT NULL, verdicts TEXT NOT NULL,"
        " language VARCHAR(16) NOT NULL, chars INTEGER NOT NULL, latency_us BIGINT NOT NULL,"
        " content_hash VARCHAR(64) NOT NULL, prev_hash VARCHAR(64) NOT NULL, row_hash VARCHAR(64) NOT NULL,"
        " content TEXT)"
    )
    for column in ("at_us", "request_id", "tenant", "action", "content_hash"):
        run(f"CREATE INDEX ix_decisions_{column} ON decisions ({column})")
    run("CREATE TABLE chain (name VARCHAR(8) NOT NULL PRIMARY KEY, seq BIGINT NOT NULL, row_hash VARCHAR(64) NOT NULL)")
    for name in ("tail", "head"):
        run(f"INSERT INTO chain (name, seq, row_hash) VALUES ('{name}', 0, '{GENESIS}')")  # noqa: S608 - constants


def _keys_and_policies(connection: Connection) -> None:
    """2: API keys, and the text of every policy that was in force."""
    run = connection.exec_driver_sql
    blob = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    run(
        "CREATE TABLE api_keys ("
        " id VARCHAR(40) NOT NULL PRIMARY KEY, name VARCHAR(64) NOT NULL, tenant VARCHAR(64) NOT NULL,"
        f" digest {blob} NOT NULL UNIQUE, scopes TEXT NOT NULL, per_minute INTEGER NOT NULL, at_us BIGINT NOT NULL,"
        " revoked_us BIGINT)"
    )
    run(
        "CREATE TABLE policies ("
        " policy_hash VARCHAR(16) NOT NULL, tenant VARCHAR(64) NOT NULL, text TEXT NOT NULL, at_us BIGINT NOT NULL,"
        " PRIMARY KEY (policy_hash, tenant))"
    )


def _reviews(connection: Connection) -> None:
    """3: what people said about decisions."""
    connection.exec_driver_sql(
        "CREATE TABLE reviews ("
        " decision_id VARCHAR(40) NOT NULL PRIMARY KEY, label VARCHAR(16) NOT NULL, categories TEXT NOT NULL,"
        " note TEXT NOT NULL, reviewer VARCHAR(64) NOT NULL, at_us BIGINT NOT NULL)"
    )


def _measures(connection: Connection) -> None:
    """4: what the model measured of itself while it answered."""
    connection.exec_driver_sql("ALTER TABLE decisions ADD COLUMN measures TEXT")


MIGRATIONS: Final[tuple[Callable[[Connection], None], ...]] = (
    _decisions_and_chain,
    _keys_and_policies,
    _reviews,
    _measures,
)
