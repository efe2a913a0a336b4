"""Everything one server is made of, built from its settings, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from corral.core.errors import ConfigError, CorralError, suggest
from corral.guards.base import Guard
from corral.guards.composition.specs import GuardSpec, by_name, leaf_names, with_settings
from corral.guards.loading import check_settings
from corral.guards.media.loading import MEDIA_GUARDS, load_media_guard
from corral.serve.audit.database import AuditError, Database
from corral.serve.audit.log import AuditLog
from corral.serve.audit.records import record_policies
from corral.serve.batching import BatchLimits
from corral.serve.console.sessions import Sessions
from corral.serve.content import load_secret
from corral.serve.health import HealthCheck
from corral.serve.keys import KeyStore
from corral.serve.memory import give_back_free_memory, large_blocks_apart
from corral.serve.moderation import Moderation
from corral.serve.policies import PolicyStore
from corral.serve.pool import GuardPool, loaded_guards
from corral.serve.settings import Limits, ServeSettings
from corral.serve.telemetry import Metrics, log
from corral.serve.upstream import Upstream, load_upstream

_REFRESH_SECONDS: Final = 2.0
_CANARY_SECONDS: Final = 30.0
_MEMORY_SECONDS: Final = 20.0
_QUIET_SECONDS: Final = 5.0
_DRAIN_SECONDS: Final = 20.0


@dataclass
class Server:
    """The parts of a server; made by ``build_server``."""

    settings: ServeSettings
    metrics: Metrics
    database: Database
    keys: KeyStore
    policies: PolicyStore
    audit: AuditLog
    moderation: Moderation
    health: HealthCheck
    upstream: Upstream | None
    sessions: Sessions = field(default_factory=Sessions)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Classify the first canary, and keep watch from then on."""
        with large_blocks_apart():  # a guard's first text brings its weights into the order that it computes in
            await self.health.check()
        await self.record_policies()
        self._tasks = [
            asyncio.create_task(self._keep(_REFRESH_SECONDS, self.refresh)),
            asyncio.create_task(self._keep(_CANARY_SECONDS, self._check)),
            asyncio.create_task(self._keep(_MEMORY_SECONDS, self.give_back_memory)),
        ]
        if self.upstream is not None:
            self.upstream.warm_up()

    async def stop(self) -> None:
        """Answer what was let in, write what was decided, and close."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.moderation.pool.close, drain_seconds=_DRAIN_SECONDS)
        await asyncio.to_thread(self.audit.close)
        if self.upstream is not None:
            await self.upstream.aclose()
        self.database.close()

    async def refresh(self) -> None:
        """Read keys and policies that changed."""
        with contextlib.suppress(AuditError):  # the canary reports a database that is away
            await asyncio.to_thread(self.keys.refresh)
        before = self.policies.problems
        changed = await asyncio.to_thread(self.policies.reload)
        for tenant in changed:
            self.metrics.policy_reloads.labels("ok").inc()
            log(logging.INFO, "policy_reloaded", tenant=tenant, policy_hash=self.policies.of(tenant).hash)
        problems = self.policies.problems
        self.metrics.policies_stale.set(len(problems))
        for tenant, problem in problems.items():
            if before.get(tenant) != problem:
                self.metrics.policy_reloads.labels("refused").inc()
                log(logging.ERROR, "policy_refused", tenant=tenant, reason=problem.splitlines()[0])
        for tenant in before.keys() - problems.keys():
            log(logging.INFO, "policy_mended", tenant=tenant)
        if changed:
            await self.record_policies()

    async def record_policies(self) -> None:
        """Keep the text of the policies in force, to be looked up by their hash."""
        with contextlib.suppress(AuditError):
            await asyncio.to_thread(record_policies, self.database, self.policies.loaded())

    async def give_back_memory(self) -> None:
        """Return to the system what the last requests left free, unless more of them are being worked on.

        Under load the next batch would take the same memory again.
        """
        if self.moderation.pool.quiet_seconds >= _QUIET_SECONDS:
            await asyncio.to_thread(give_back_free_memory)

    async def _check(self) -> None:
        health = await self.health.check()
        if health.problems:
            log(logging.ERROR, "not_ready", problems=list(health.problems))

    async def _keep(self, seconds: float, do: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await do()
            except Exception as error:
                log(logging.ERROR, "background_failed", error=type(error).__name__)


def build_server(
    settings: ServeSettings, *, guards: Sequence[Guard] | None = None, upstream: Upstream | None = None
) -> Server:
    """Load what the settings name.

    Args:
        settings: of the server.
        guards: instead of loading ``settings.guards``.
        upstream: instead of the one that the settings name.

    Raises:
        CorralError: something that cannot be loaded, read or reached.
    """
    limits = settings.limits
    metrics = Metrics()
    database = Database(settings.database_url)
    try:
        specs = {} if guards else _guard_specs(settings)
        with large_blocks_apart():
            loaded = guards or loaded_guards(specs.values())
        media_settings = settings.guard_settings.get(settings.media_guard, {})
        check_settings(settings.media_guard, MEDIA_GUARDS.get(settings.media_guard), media_settings)
        named = {guard.name: guard for guard in loaded}
        policies = PolicyStore(settings.policies, named, list(named), specs)
        keys = KeyStore(database)
        secret = load_secret(settings.state)
        chosen_upstream = upstream or load_upstream(settings)
    except CorralError:
        database.close()
        raise
    pool = GuardPool(
        loaded,
        _batch_limits(limits),
        timeout=limits.guard_seconds,
        cache_size=settings.verdict_cache,
        media=lambda: load_media_guard(settings.media_guard, **media_settings),
        observe=metrics.guard_observer,
    )
    audit = AuditLog(database, timeout=limits.audit_seconds, observe=metrics.observe_commit)
    moderation = Moderation(pool, policies, audit, metrics, secret=secret)
    health = HealthCheck(pool, audit, metrics)
    return Server(settings, metrics, database, keys, policies, audit, moderation, health, chosen_upstream)


def _guard_specs(settings: ServeSettings) -> dict[str, GuardSpec]:
    """The guards by name, with their settings."""
    specs = by_name(settings.guards, where="guards")
    known = [*leaf_names(specs.values()), settings.media_guard]
    for name in settings.guard_settings:
        if name not in known:
            raise ConfigError(
                f"guard `{name}` is set and not asked", where=f"guard_settings.{name}", hint=suggest(name, known)
            )
    return {name: with_settings(spec, settings.guard_settings) for name, spec in specs.items()}


def _batch_limits(limits: Limits) -> BatchLimits:
    return BatchLimits(
        queue_items=limits.queue_items,
        queue_tokens=limits.queue_tokens,
        queue_seconds=limits.queue_seconds,
        batch_items=limits.batch_items,
        batch_tokens=limits.batch_tokens,
        linger_seconds=limits.linger_ms / 1e3,
        hang_seconds=limits.guard_seconds,
    )
