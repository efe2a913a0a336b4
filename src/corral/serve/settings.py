"""How a server is set up: what the command line and a configuration file decide once, at the start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from corral.core.config import Config
from corral.core.errors import ConfigError
from corral.guards.composition.specs import GuardSpec

EMBEDDED_UPSTREAM: Final = "embedded:smollm2-135m-instruct"
STATE_VARIABLE: Final = "CORRAL_STATE"
"""Environment variable that names the folder of the database and the server's secret."""

Seconds = Annotated[float, Field(gt=0, le=3600)]
Count = Annotated[int, Field(ge=1)]


def default_state() -> Path:
    """``$CORRAL_STATE``, or ``corral`` in the user's folder for state (XDG base directories)."""
    if named := os.environ.get(STATE_VARIABLE):
        return Path(named)
    root = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(root) / "corral"


def make_private_folder(folder: Path) -> None:
    """Make a folder that its owner alone reads, where it is not there yet.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        hint = "Name another folder with --state, or another --database."
        raise ConfigError(f"the folder cannot be made: {error.strerror}", where=str(folder), hint=hint) from error


class Limits(Config):
    """What the server accepts and how long it waits.

    Attributes:
        body_bytes: largest request body.
        inputs: most inputs of one moderation request, and most messages of one chat request.
        text_chars: longest single text; the guard's own limit where that is lower.
        images: most pictures of one request.
        queue_items: conversations that may wait for one guard; more are answered 429.
        queue_tokens: the same in estimated tokens, so that few long texts count like many short ones.
        queue_seconds: a queue whose oldest conversation waits longer takes no more, whatever its size: what is let in
            on a slow machine would not be answered in time.
        batch_items: conversations in one call of a guard.
        batch_tokens: estimated tokens in one call of a guard.
        linger_ms: how long a batch that is not full waits for more; callers of the batch just before it are waited for
            as long as a tenth of its time, 30 ms at the most, where that is longer. 0 waits for nobody.
        guard_seconds: a verdict that takes longer is a verdict of status ``timeout``.
        upstream_seconds: longest wait for the model behind the gateway.
        audit_seconds: longest wait for a row to be committed; then the request is answered 503.
        reply_chars: longest reply that is read from the model behind the gateway, all its choices together.
        stream_seconds: longest time from the first to the last event of a stream.
        stream_windows: most decisions about one stream.
    """

    body_bytes: Count = 8 * 2**20
    inputs: Count = 512
    text_chars: Count = 200_000
    images: Count = 16
    queue_items: Count = 512
    queue_tokens: Count = 131_072
    queue_seconds: Seconds = 10.0
    batch_items: Count = 32
    batch_tokens: Count = 4096
    linger_ms: Annotated[float, Field(ge=0, le=1000)] = 2.0
    guard_seconds: Seconds = 30.0
    upstream_seconds: Seconds = 120.0
    audit_seconds: Seconds = 20.0
    reply_chars: Count = 1_000_000
    stream_seconds: Seconds = 600.0
    stream_windows: Count = 10_000


class ServeSettings(Config):
    """One server.

    Attributes:
        host: address to bind; any but loopback needs an API key to exist.
        port: 0 lets the system choose.
        guards: asked where a policy names none; names or compositions.
        guard_settings: by guard, that of images too, what its ``load`` takes.
        media_guard: judges images; loaded with the first one.
        upstream: base URL of an OpenAI-compatible API, ``embedded:NAME``, a model folder, or ``none``.
        policies: a policy file for everybody, or a folder of ``TENANT.yaml`` with a ``default.yaml``.
        state: folder of the database and the secret.
        database: SQLAlchemy URL; ``None`` is SQLite in ``state``.
        hosts: names beside loopback's by which an open server may be called (DNS rebinding).
        fetch_images: follow http and https addresses of images.
        limits: sizes and times.
        verdict_cache: verdicts kept in memory, so that the turns of a growing chat are judged once.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    guards: Annotated[tuple[GuardSpec, ...], Field(min_length=1)] = ("default",)
    guard_settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    media_guard: str = "open-nsfw"
    upstream: str = EMBEDDED_UPSTREAM
    policies: Path | None = None
    state: Path = Field(default_factory=default_state)
    database: str | None = None
    hosts: tuple[str, ...] = ()
    fetch_images: bool = False
    limits: Limits = Limits()
    verdict_cache: Annotated[int, Field(ge=0)] = 4096

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.database or f"sqlite:///{self.state / 'serve.sqlite3'}"


def is_loopback(host: str) -> bool:
    """Whether an address to bind can be reached from this machine only."""
    import ipaddress

    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
