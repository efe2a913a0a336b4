"""API keys: 256 random bits each, stored as a SHA-256 digest, with a tenant, scopes and a rate.

A plain digest is enough: such keys cannot be guessed or listed, so there is nothing for a slow hash to slow down.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import insert, select, update

from corral.core.errors import ConfigError, NotFoundError, suggest
from corral.serve.audit.database import Database
from corral.serve.audit.tables import KEYS
from corral.serve.policies import DEFAULT_TENANT, TENANT_PATTERN

SCOPES: Final = ("moderate", "chat", "metrics", "review", "admin")
"""``review`` reads and labels decisions in the console, ``admin`` also edits policies: those of the key's tenant, or of
all where that is ``default``."""

_PREFIX: Final = "corral_"
_RANDOM_BYTES: Final = 32
_LONGEST_NAME: Final = 64
_HIGHEST_RATE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key without its secret.

    Attributes:
        id: names it in the log and on the command line.
        name: what its owner calls it.
        tenant: whose policy applies.
        scopes: what it may do.
        per_minute: requests a minute; 0 for no limit.
        at_us: when it was made, in microseconds since the epoch.
        revoked_us: when it was revoked.
    """

    id: str
    name: str
    tenant: str
    scopes: frozenset[str]
    per_minute: int
    at_us: int
    revoked_us: int | None = None


class KeyStore:
    """The keys in the database, and a copy in memory that ``refresh`` brings up to date.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._active: dict[bytes, ApiKey] = {}
        self._any = False
        self.refresh()

    @property
    def required(self) -> bool:
        """Whether callers need a key: one exists, revoked ones included, so that revoking the last opens nothing."""
        return self._any

    def refresh(self) -> None:
        """Read the keys again.

        Raises:
            AuditError: the database failed; the copy in memory stays.
        """
        with self._database.read() as connection:
            rows = connection.execute(select(KEYS)).all()
        self._any = bool(rows)
        self._active = {bytes(row.digest): _key(row) for row in rows if row.revoked_us is None}

    def find(self, token: str) -> ApiKey | None:
        """The key that a caller shows, ``None`` when there is none or it was revoked."""
        return self._active.get(_digest(token))

    def is_active(self, key_id: str) -> bool:
        """Whether a key of this id exists and was not revoked."""
        return any(key.id == key_id for key in self._active.values())

    def create(
        self,
        name: str,
        *,
        tenant: str = DEFAULT_TENANT,
        scopes: Sequence[str] = ("moderate", "chat"),
        per_minute: int = 0,
    ) -> tuple[ApiKey, str]:
        """Make a key; its secret is returned here and never again.

        Raises:
            ConfigError: a name, tenant, scope or rate that cannot be used.
        """
        if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
            raise ConfigError(f"a name has 1 to {_LONGEST_NAME} printable characters", where="name")
        if not re.match(TENANT_PATTERN, tenant):
            raise ConfigError(f"`{tenant}` is not a tenant's name", where="tenant", hint="Use a-z, 0-9, `_` and `-`.")
        if unknown := [scope for scope in scopes if scope not in SCOPES]:
            raise ConfigError(f"no scope is named `{unknown[0]}`", where="scope", hint=suggest(unknown[0], SCOPES))
        if not scopes:
            raise ConfigError("a key needs a scope", where="scope")
        if not 0 <= per_minute <= _HIGHEST_RATE:
            raise ConfigError(f"a rate is a number from 0 to {_HIGHEST_RATE:,}", where="per_minute")
        token = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        key = ApiKey(f"key_{secrets.token_hex(6)}", name, tenant, frozenset(scopes), per_minute, _now_us())
        with self._database.write() as connection:
            connection.execute(
                insert(KEYS).values(
                    id=key.id,
                    name=name,
                    tenant=tenant,
                    digest=_digest(token),
                    scopes=" ".join(sorted(key.scopes)),
                    per_minute=per_minute,
                    at_us=key.at_us,
                )
            )
        self.refresh()
        return key, token

    def revoke(self, id: str) -> None:
        """Make a key useless; running servers notice within seconds.

        Raises:
            NotFoundError: there is no such key.
        """
        with self._database.write() as connection:
            found = connection.execute(
                update(KEYS).where(KEYS.c.id == id, KEYS.c.revoked_us.is_(None)).values(revoked_us=_now_us())
            )
            if found.rowcount == 0:
                active = connection.scalars(select(KEYS.c.id).where(KEYS.c.revoked_us.is_(None))).all()
                raise NotFoundError(f"no active key `{id}`", hint=suggest(id, active))
        self.refresh()

    def all(self) -> list[ApiKey]:
        """Every key, revoked ones included, oldest first."""
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(select(KEYS).order_by(KEYS.c.at_us)).all()]


class RateLimiter:
    """A token bucket for each key: a minute's requests may come at once, then they come evenly.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_seconds(self, key: ApiKey) -> float:
        """0 when the request may go on (it is then counted), else after how many seconds to come again."""
        if key.per_minute == 0:
            return 0.0
        now = self._clock()
        level, then = self._buckets.get(key.id, (float(key.per_minute), now))
        level = min(key.per_minute, level + (now - then) * key.per_minute / 60)
        if level < 1:
            self._buckets[key.id] = (level, now)
            return (1 - level) * 60 / key.per_minute
        self._buckets[key.id] = (level - 1, now)
        return 0.0


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _key(row: object) -> ApiKey:
    values = row._mapping  # type: ignore[attr-defined]  # a row of SQLAlchemy's
    return ApiKey(
        values["id"],
        values["name"],
        values["tenant"],
        frozenset(values["scopes"].split()),
        values["per_minute"],
        values["at_us"],
        values["revoked_us"],
    )


def _now_us() -> int:
    return time.time_ns() // 1000
