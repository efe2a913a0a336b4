"""Whether the server can do its work: a canary text through every guard, and a look at the audit log."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from corral.data.messages import Conversation
from corral.guards.base import Status
from corral.serve.audit.database import AuditError
from corral.serve.audit.log import AuditLog
from corral.serve.batching import QueueFullError
from corral.serve.pool import GuardPool
from corral.serve.telemetry import Metrics

CANARY: Final = "What time is it?"
_STALE_SECONDS: Final = 120.0


@dataclass(slots=True)
class Health:
    """What the last check found.

    Attributes:
        problems: why the server is not ready; empty when it is.
        checked_at: ``time.monotonic`` of the check; 0 before the first.
    """

    problems: tuple[str, ...] = ("not checked yet",)
    checked_at: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether the last check went well and is not too old to be believed."""
        return not self.problems and time.monotonic() - self.checked_at < _STALE_SECONDS


class HealthCheck:
    """Classifies the canary and reads the database.

    Args:
        pool: every guard in it is asked, and every guard within those that are made of others: a costly guard that is
            asked about few texts must not be found missing by one of them.
        audit: its database is read, and its last commit must have gone well.
        metrics: shows the outcome.
    """

    def __init__(self, pool: GuardPool, audit: AuditLog, metrics: Metrics) -> None:
        self.health = Health()
        self._pool = pool
        self._audit = audit
        self._metrics = metrics
        self._number = 0

    async def check(self) -> Health:
        """Look now. A full queue is load, not illness: what was found before then stands."""
        problems: list[str] = []
        try:
            problems += await self._canary()
        except QueueFullError:
            if self.health.checked_at:
                problems += self.health.problems
        try:
            await asyncio.to_thread(self._read_database)
        except AuditError as error:
            problems.append(error.message)
        if self._audit.problem is not None:
            problems.append(self._audit.problem)
        self.health = Health(tuple(problems), time.monotonic())
        self._metrics.ready.set(float(not problems))
        return self.health

    async def _canary(self) -> list[str]:
        self._number += 1  # another text each time, which no cache knows
        conversation = Conversation.user(f"{CANARY} {self._number}")
        verdicts = await self._pool.judge_everywhere(conversation)
        return [
            f"guard `{path}`: {verdict.detail or verdict.status.value}"
            for path, verdict in verdicts.items()
            if verdict.status is not Status.OK
        ]

    def _read_database(self) -> None:
        with self._audit.database.read() as connection:
            connection.exec_driver_sql("SELECT seq FROM chain WHERE name = 'head'")
