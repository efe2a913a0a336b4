"""Options and the database that ``corral serve`` and its commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corral.core.errors import MissingDependencyError, NotFoundError

if TYPE_CHECKING:
    from corral.serve.audit.database import Database

StateOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the database and the server's secret; default: $CORRAL_STATE, or corral in your state folder.",
        show_default=False,
    ),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        envvar="CORRAL_DATABASE",
        show_envvar=False,
        help="SQLAlchemy URL, such as postgresql+psycopg://user@host/name; default: $CORRAL_DATABASE, or SQLite in the"
        " state folder.",
        show_default=False,
    ),
]


@contextmanager
def open_database(state: Path | None, url: str | None, *, migrate: bool = False) -> Iterator[Database]:
    """The database of a server, closed at the end.

    Raises:
        NotFoundError: without ``migrate``, a SQLite file that is not there.
        CorralError: it cannot be opened.
    """
    require_serve_libraries()
    from corral.serve.audit.database import Database
    from corral.serve.settings import ServeSettings, default_state

    settings = ServeSettings(state=state or default_state(), database=url)
    path = settings.state / "serve.sqlite3"
    if not migrate and url is None and not path.exists():
        raise NotFoundError("there is no database", where=str(path), hint="Name the server's folder with --state.")
    opened = Database(settings.database_url, migrate=migrate)
    try:
        yield opened
    finally:
        opened.close()


def require_serve_libraries() -> None:
    """Say what is missing in the user's words.

    Raises:
        MissingDependencyError: the ``serve`` extra is not installed.
    """
    from importlib.util import find_spec

    names = ("fastapi", "jinja2", "opentelemetry", "prometheus_client", "sqlalchemy", "uvicorn")
    if missing := [name for name in names if find_spec(name) is None]:
        raise MissingDependencyError(
            f"`{missing[0]}` is not installed", where="corral serve", hint='pip install "corral[serve]"'
        )
