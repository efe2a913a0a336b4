"""One database, SQLite or PostgreSQL: connecting, transactions, and migrations.

SQLite runs with a write-ahead log and ``synchronous=FULL``, so that a committed row survives a power cut, and one
process serves it at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, inspect, make_url, select, update
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)

from corral.core.errors import ConfigError, CorralError, MissingDependencyError, RunError
from corral.serve.audit.migrations import MIGRATIONS
from corral.serve.audit.tables import SCHEMA
from corral.serve.settings import make_private_folder

_BUSY_MS: Final = 10_000
_WRITES: Final = "corral_writes"


class AuditError(CorralError):
    """The database cannot be reached, read or written: no answer may leave.

    ``transient``: the same may go well in a moment (a lost connection, a lock). ``of_values``: a value that was to be
    written does not fit, and nothing is wrong with the database.
    """

    transient = False
    of_values = False


class Database:
    """A connected database with the newest schema.

    Args:
        url: as SQLAlchemy reads it, for example ``sqlite:////var/lib/corral/serve.sqlite3`` or
            ``postgresql+psycopg://user@host/name``.
        migrate: bring the schema up to date; without it an older one is refused.

    Raises:
        ConfigError: not a URL, or of another kind of database.
        MissingDependencyError: the driver is not installed.
        RunError: the schema is newer than this Corral, or older and ``migrate`` is false.
        AuditError: the database cannot be reached.
    """

    def __init__(self, url: str, *, migrate: bool = True) -> None:
        self.engine = _engine(url)
        self.shown = self.engine.url.render_as_string(hide_password=True)
        with self._errors():
            _bring_up_to_date(self.engine, self.shown, migrate=migrate)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads one state of the database, whatever is written meanwhile.

        Raises:
            AuditError: the database failed.
        """
        options = {"isolation_level": "REPEATABLE READ"} if self.engine.dialect.name == "postgresql" else {}
        with self._errors(), self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: committed when the block ends, and by then on the disk.

        Raises:
            AuditError: the database failed; nothing was written.
        """
        with (
            self._errors(),
            self.engine.connect().execution_options(**{_WRITES: True}) as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            # Not the error's text: it quotes the statement's values.
            cause = getattr(error, "orig", None) or error
            kind = getattr(cause, "sqlite_errorname", None) or type(cause).__name__
            failure = AuditError(f"the audit database failed ({kind})", where=self.shown)
            failure.transient = _is_transient(error, self.engine)
            failure.of_values = isinstance(error, DataError) or not isinstance(error, DBAPIError)
            raise failure from error
        except (OverflowError, UnicodeError) as error:  # the driver could not write a value
            failure = AuditError(f"a value does not fit the audit database ({type(error).__name__})", where=self.shown)
            failure.of_values = True
            raise failure from error


def _is_transient(error: SQLAlchemyError, engine: Engine) -> bool:
    if engine.dialect.name == "sqlite":
        return getattr(getattr(error, "orig", None), "sqlite_errorname", "") in {"SQLITE_BUSY", "SQLITE_LOCKED"}
    return isinstance(error, OperationalError | InterfaceError)  # a server that restarts


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(
            "not a database URL", where="--database", hint="For example postgresql+psycopg://user@host/name"
        ) from error
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise ConfigError(
            f"databases of the kind `{parsed.get_backend_name()}` are not supported",
            where="--database",
            hint="Use SQLite or PostgreSQL.",
        )
    try:
        if parsed.get_backend_name() == "postgresql":
            return create_engine(parsed, pool_pre_ping=True, pool_size=4)
        if _is_in_memory(parsed):
            raise ConfigError(
                "a database in memory keeps no log",
                where="--database",
                hint="Name a file: sqlite:////path/serve.sqlite3",
            )
        if parsed.database:
            make_private_folder(Path(parsed.database).parent)  # it may hold texts
        engine = create_engine(parsed, connect_args={"timeout": _BUSY_MS / 1000})
    except ImportError as error:
        raise MissingDependencyError(
            "the database's driver is not installed", where="--database", hint='pip install "psycopg[binary]"'
        ) from error
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _is_in_memory(url: URL) -> bool:
    """Whether SQLite would keep nothing, and every thread would have a database of its own."""
    database = url.database or ":memory:"
    return ":memory:" in database or "mode=memory" in database or url.query.get("mode") == "memory"


def _configure_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes its lock at once: one that reads first could not get it any more when another has written.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITES) else "BEGIN")


def _bring_up_to_date(engine: Engine, shown: str, *, migrate: bool) -> None:
    with engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(6737121)")  # one migration at a time
        version = 0
        if inspect(connection).has_table(SCHEMA.name):
            version = connection.scalar(select(SCHEMA.c.version)) or 0
        if version > len(MIGRATIONS):
            raise RunError(
                f"the database has schema {version}, this Corral knows {len(MIGRATIONS)}",
                where=shown,
                hint="Use the version of Corral that wrote it, or a newer one.",
            )
        if version < len(MIGRATIONS) and not migrate:
            raise RunError(
                f"the database has schema {version}, this Corral needs {len(MIGRATIONS)}",
                where=shown,
                hint="Start `corral serve` once: it brings the schema up to date.",
            )
        for migration in MIGRATIONS[version:]:
            migration(connection)
        if version == 0:
            connection.execute(insert(SCHEMA).values(version=len(MIGRATIONS)))
        elif version < len(MIGRATIONS):
            connection.execute(update(SCHEMA).values(version=len(MIGRATIONS)))
