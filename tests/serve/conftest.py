"""Servers made of scripted guards and engines, in this process and on real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from starlette.testclient import TestClient

from corral.guards.base import Guard
from corral.guards.scripted import ScriptedGuard
from corral.models.engines.base import Prompt
from corral.models.engines.scripted import ScriptedEngine
from corral.serve.app import create_app
from corral.serve.audit.queries import Search, find_decisions
from corral.serve.engine_upstream import EngineUpstream
from corral.serve.server import Server, build_server
from corral.serve.settings import Limits, ServeSettings
from corral.serve.upstream import Upstream

BAD = "TRIGGER"
CATEGORY = "llama_guard_3/S10"


class Running:
    """A server and a client of it, in this process."""

    def __init__(self, server: Server, client: TestClient) -> None:
        self.server = server
        self.client = client

    def rows(self, **search: Any) -> list[dict[str, Any]]:
        """Audit rows, newest first."""
        return find_decisions(self.server.database, Search(**search), limit=1000)

    def rows_of(self, response: Any) -> list[dict[str, Any]]:
        """The audit rows of one request, oldest first."""
        return self.rows(request_id=response.headers["x-request-id"])[::-1]

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric, 0 before it was first counted."""
        return self.server.metrics.registry.get_sample_value(f"corral_{name}", labels) or 0.0

    def moderate(self, given: Any, **more: Any) -> Any:
        return self.client.post("/v1/moderations", json={"input": given, **more})

    def chat(self, *messages: Mapping[str, Any] | str, headers: Mapping[str, str] | None = None, **more: Any) -> Any:
        turns = [{"role": "user", "content": m} if isinstance(m, str) else dict(m) for m in messages]
        return self.client.post(
            "/v1/chat/completions", json={"messages": turns, "max_tokens": 100_000, **more}, headers=headers
        )


def events_of(text: str) -> list[dict[str, Any]]:
    """The objects of a stream of server-sent events, without the closing mark."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in data if line != "[DONE]"]


def streamed_text(text: str) -> str:
    """What a stream said."""
    pieces = [c["delta"].get("content") or "" for e in events_of(text) for c in e.get("choices", [])]
    return "".join(pieces)


@pytest.fixture(scope="session")
def events() -> Callable[[str], list[dict[str, Any]]]:
    return events_of


@pytest.fixture(scope="session")
def said() -> Callable[[str], str]:
    return streamed_text


def echo(prompt: Prompt) -> str:
    """Answers ``say X`` with X, anything else politely."""
    text = prompt.messages[-1].text if not isinstance(prompt, str) else prompt  # type: ignore[union-attr]
    return text.removeprefix("say ") if text.startswith("say ") else "As you like."


Start = Callable[..., Running]


def make_server(
    state: Path,
    *,
    guards: Sequence[Guard] | None = None,
    reply: Callable[[Prompt], str] = echo,
    upstream: Upstream | None = None,
    policies: Mapping[str, str] | None = None,
    limits: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Server:
    """A server with a guard that flags TRIGGER, and an engine that says what it is told to."""
    folder = None
    if policies is not None:
        folder = state / "policies"
        folder.mkdir(parents=True, exist_ok=True)
        for tenant, text in policies.items():
            (folder / f"{tenant}.yaml").write_text(text)
    chosen = guards or [ScriptedGuard(categories={BAD: CATEGORY})]
    engine = ScriptedEngine(reply, name="scripted-engine")
    return build_server(
        ServeSettings(
            state=state,
            policies=folder,
            guards=tuple(guard.name for guard in chosen),
            limits=Limits(**{"linger_ms": 0.0, **(limits or {})}),
            **settings,
        ),
        guards=chosen,
        upstream=upstream or EngineUpstream(lambda: engine, name="scripted-engine"),
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers; they are stopped at the end."""
    with ExitStack() as stack:

        def started(**options: Any) -> Running:
            server = make_server(options.pop("state", tmp_path / "state"), **options)
            client = stack.enter_context(TestClient(create_app(server), base_url="http://127.0.0.1"))
            return Running(server, client)

        yield started


@pytest.fixture(scope="session")
def server_in() -> Callable[..., Server]:
    """Builds a server in a folder, without starting it."""
    return make_server


@contextmanager
def on_socket(server: Server) -> Iterator[str]:
    """Serve on a port of this machine; yields the base URL."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as bound:
        running = uvicorn.Server(uvicorn.Config(create_app(server), log_config=None, access_log=False))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while not running.started:
            assert time.monotonic() < deadline
            assert thread.is_alive(), "the server ended while it started"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join(30)


@pytest.fixture(scope="session")
def listening() -> Callable[[Server], Any]:
    return on_socket
