"""How a server is put together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from corral.core.errors import NotFoundError
from corral.guards.scripted import ScriptedGuard
from corral.serve import pool, server
from corral.serve.server import Server, build_server
from corral.serve.settings import ServeSettings


def test_guards_are_loaded_in_a_thread_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def load(spec: Any) -> ScriptedGuard:
        threads.append(threading.current_thread())
        return ScriptedGuard([], name="default")

    monkeypatch.setattr(pool, "load_guard", load)

    built = build_server(ServeSettings(state=tmp_path, upstream="none"))

    built.database.close()
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    assert not threads[0].is_alive()


@pytest.mark.parametrize(("quiet_seconds", "given_back"), [(0.0, 0), (4.9, 0), (5.0, 1), (inf, 1)])
def test_memory_is_given_back_when_nothing_is_asked(
    quiet_seconds: float,
    given_back: int,
    tmp_path: Path,
    server_in: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(server, "give_back_free_memory", lambda: calls.append(None))
    monkeypatch.setattr(pool.GuardPool, "quiet_seconds", quiet_seconds)
    built = server_in(tmp_path)

    asyncio.run(built.give_back_memory())

    built.database.close()
    assert len(calls) == given_back


def test_a_guard_that_cannot_be_loaded_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(spec: Any) -> ScriptedGuard:
        raise NotFoundError("no such guard")

    monkeypatch.setattr(pool, "load_guard", load)

    with pytest.raises(NotFoundError, match="no such guard"):
        build_server(ServeSettings(state=tmp_path, upstream="none"))
