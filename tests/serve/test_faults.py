"""What happens when a guard fails: every fault, under every policy, on every route, with body, row and metric."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from corral.data.messages import Conversation, TargetChoice
from corral.guards.base import Status, Verdict
from corral.serve.app import create_app
from corral.serve.server import Server

GUARD_SECONDS = 0.4
STATUS_OF_FAULT = {
    "ok": "ok",
    "raises": "error",
    "hangs": "timeout",
    "unparseable": "unparseable",
    "nan": "error",
    "wrong_count": "error",
    "empty": "error",
}
POLICIES = {
    "blocks": "on_error: block\n",
    "flags": "on_error: flag\n",
    "allows": "on_error: allow\n",
    "leaves": "on_error: undecided\n",
    "shadows": "on_error: block\nmode: shadow\n",
}
ON_ERROR = {"blocks": "block", "flags": "flag", "allows": "allow", "leaves": "undecided", "shadows": "block"}
ROUTES = ("moderation", "chat prompt", "chat reply", "stream prompt", "stream reply")


class FaultyGuard:
    """Fails as the judged text says: ``FAULT:raises``."""

    name = "faulty"
    revision = "1"
    taxonomy = ""

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        return [verdict for c in conversations for verdict in self._judge(c)]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Any, Verdict]]:
        raise NotImplementedError

    def _judge(self, conversation: Conversation) -> list[Verdict]:
        target = conversation.target()
        text = conversation.messages[-1].text
        harmless = Verdict(target, self.name, self.revision, flagged=False, p_harm=0.01)
        match text.partition("FAULT:")[2].split(" ")[0]:
            case "raises":
                raise RuntimeError(f"a secret in a message: {text}")
            case "hangs":
                time.sleep(2 * GUARD_SECONDS)
            case "unparseable":
                return [Verdict.failed(target, self.name, self.revision, Status.UNPARSEABLE, "no verdict in it")]
            case "nan":
                return [Verdict(target, self.name, self.revision, flagged=False, p_harm=math.nan)]
            case "wrong_count":
                return [harmless, harmless]
            case "empty":
                return []
        return [harmless]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, server_in: Callable[..., Server]) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("faults")
    policies = {"default": "id: default\n"} | {name: f"id: {name}\n{text}" for name, text in POLICIES.items()}
    yield server_in(folder, guards=[FaultyGuard()], policies=policies, limits={"guard_seconds": GUARD_SECONDS})


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[TestClient]:
    with TestClient(create_app(server), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture(scope="module")
def key_of(server: Server) -> dict[str, str]:
    return {tenant: server.keys.create(tenant, tenant=tenant)[1] for tenant in POLICIES}


@pytest.mark.parametrize("tenant", POLICIES)
@pytest.mark.parametrize("fault", STATUS_OF_FAULT)
def test_a_fault_is_answered_recorded_and_counted_as_the_policy_says(
    fault: str,
    tenant: str,
    server: Server,
    client: TestClient,
    key_of: dict[str, str],
    said: Callable[[str], str],
    events: Callable[[str], list[dict[str, Any]]],
) -> None:
    from corral.serve.audit.queries import Search, find_decisions

    def metric(name: str, **labels: str) -> float:
        return server.metrics.registry.get_sample_value(f"corral_{name}", labels) or 0.0

    failed = fault != "ok"
    action = ON_ERROR[tenant] if failed else "allow"
    taken = "allow" if tenant == "shadows" else action
    stopped = taken in ("block", "undecided")
    mode = "shadow" if tenant == "shadows" else "enforce"
    headers = {"Authorization": f"Bearer {key_of[tenant]}"}
    text = f"Please FAULT:{fault} now"
    for route in ROUTES:
        stage = {
            "moderation": "input",
            "chat prompt": "prompt",
            "stream prompt": "prompt",
            "chat reply": "response",
        }.get(route, "post_hoc" if mode == "shadow" else "response")
        decisions = metric("decisions_total", stage=stage, action=action, mode=mode)
        verdicts = metric("verdicts_total", guard="faulty", status=STATUS_OF_FAULT[fault])
        if route == "moderation":
            response = client.post("/v1/moderations", json={"input": text}, headers=headers)
            assert response.status_code == 200
            assert response.json()["results"][0]["flagged"] is (taken != "allow")
            told = response.json()["corral"]["decisions"][0]
        else:
            prompt = text if route.endswith("prompt") else "say nothing"
            if route.endswith("reply"):
                prompt = "Please answer"
                server.upstream._engine = _Says(text)  # type: ignore[union-attr]
            else:
                server.upstream._engine = _Says("Gladly.")  # type: ignore[union-attr]
            body = {"messages": [{"role": "user", "content": prompt}], "stream": route.startswith("stream")}
            response = client.post("/v1/chat/completions", json=body, headers=headers)
            assert response.status_code == 200
            answer = "Gladly." if route.endswith("prompt") else text
            if route.startswith("stream"):
                found = events(response.text)
                assert response.text.endswith("data: [DONE]\n\n")
                reason = found[-1]["choices"][0]["finish_reason"]
                shown = said(response.text)
                told = found[-1]["corral"]["decisions"][0 if route.endswith("prompt") else -1]
            else:
                choice = response.json()["choices"][0]
                reason, shown = choice["finish_reason"], choice["message"]["content"]
                told = response.json()["corral"]["decisions"][0 if route.endswith("prompt") else -1]
            assert reason == ("content_filter" if stopped else "stop")
            if stopped:
                assert answer not in shown
                assert shown in ("", "This was stopped by the content policy.")
            else:
                assert shown == answer
        assert (told["action"], told["taken"], told["status"]) == (action, taken, STATUS_OF_FAULT[fault])
        assert told["flagged"] is (None if failed and action in ("allow", "block", "flag", "undecided") else False)
        rows = find_decisions(server.database, Search(request_id=response.headers["x-request-id"]))
        row = next(row for row in rows if row["id"] == told["id"])
        assert (row["action"], row["taken"], row["failed"], row["stage"]) == (action, taken, failed, stage)
        assert [verdict["status"] for verdict in row["verdicts"]] == [STATUS_OF_FAULT[fault]]
        assert "secret" not in str(row)
        assert metric("decisions_total", stage=stage, action=action, mode=mode) >= decisions + 1
        assert metric("verdicts_total", guard="faulty", status=STATUS_OF_FAULT[fault]) >= verdicts + 1


class _Says:
    """An engine that says one thing."""

    name = "says"

    def __init__(self, text: str) -> None:
        self._text = text

    def generate(self, prompts: Sequence[Any], settings: Any) -> list[Any]:
        from corral.models.engines.base import Generation

        return [Generation(self._text, (1,), "stop", 1) for _ in prompts]

    def stream(self, prompt: Any, settings: Any) -> Iterator[str]:
        yield from (self._text[i : i + 7] for i in range(0, len(self._text), 7))
