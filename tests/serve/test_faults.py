"""What happens when a guard fails: every fault, under every policy, on every route, with body, rows and metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from starlette.testclient import TestClient

from corral.data.messages import Conversation, TargetChoice
from corral.guards.base import Status, Verdict
from corral.models.engines.base import Generation
from corral.serve.app import create_app
from corral.serve.audit.queries import Search, find_decisions
from corral.serve.server import Server

GUARD_SECONDS = 0.4
HANG_SECONDS = 0.7
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
STAGES = {
    "moderation": "input",
    "chat prompt": "prompt",
    "chat reply": "response",
    "stream prompt": "prompt",
    "stream reply": "response",
    "stream window": "window",
}
MESSAGE = "This was stopped by the content policy."
FILLER = "All is well. " * 50


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
                time.sleep(HANG_SECONDS)
            case "unparseable":
                return [Verdict.failed(target, self.name, self.revision, Status.UNPARSEABLE, "no verdict in it")]
            case "nan":
                return [Verdict(target, self.name, self.revision, flagged=False, p_harm=math.nan)]
            case "wrong_count":
                return [harmless, harmless]
            case "empty":
                return []
        return [harmless]


class Says:
    """An engine that says one thing."""

    name = "says"

    def __init__(self, text: str) -> None:
        self._text = text

    def generate(self, prompts: Sequence[Any], settings: Any) -> list[Any]:
        return [Generation(self._text, (1,), "stop", 1) for _ in prompts]

    def stream(self, prompt: Any, settings: Any) -> Iterator[str]:
        yield from (self._text[i : i + 7] for i in range(0, len(self._text), 7))


class Answered(NamedTuple):
    """An answer: how it ended, what was shown, what it would show unhindered, and the decisions it tells of."""

    response: Any
    reason: str
    shown: str
    unhindered: str
    decisions: list[dict[str, Any]]


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


@pytest.fixture
def ask(server: Server, client: TestClient, said: Any, events: Any) -> Callable[[str, str, str], Answered]:
    """Asks on a route, with the text where the route's name says."""

    def asked(route: str, text: str, key: str) -> Answered:
        headers = {"Authorization": f"Bearer {key}"}
        if route == "moderation":
            response = client.post("/v1/moderations", json={"input": text}, headers=headers)
            flagged = str(response.json()["results"][0]["flagged"])
            return Answered(response, flagged, "", "", response.json()["corral"]["decisions"])
        reply = {"reply": text, "window": FILLER + text + FILLER}.get(route.split()[1], "Gladly.")
        server.upstream._engine = Says(reply)  # type: ignore[union-attr]
        prompt = text if route.endswith("prompt") else "Please answer"
        body = {"messages": [{"role": "user", "content": prompt}], "stream": route.startswith("stream")}
        response = client.post("/v1/chat/completions", json=body, headers=headers)
        assert response.status_code == 200
        if not body["stream"]:
            (choice,) = response.json()["choices"]
            told = response.json()["corral"]["decisions"]
            return Answered(response, choice["finish_reason"], choice["message"]["content"], reply, told)
        assert response.text.endswith("data: [DONE]\n\n")
        last = events(response.text)[-1]
        reason = last["choices"][0]["finish_reason"]
        return Answered(response, reason, said(response.text), reply, last["corral"]["decisions"])

    return asked


@pytest.mark.parametrize("tenant", POLICIES)
@pytest.mark.parametrize("fault", STATUS_OF_FAULT)
def test_a_fault_is_answered_recorded_and_counted_as_the_policy_says(
    fault: str, tenant: str, server: Server, key_of: dict[str, str], ask: Callable[[str, str, str], Answered]
) -> None:
    def metric(name: str, **labels: str) -> float:
        return server.metrics.registry.get_sample_value(f"corral_{name}", labels) or 0.0

    failed = fault != "ok"
    mode = "shadow" if tenant == "shadows" else "enforce"
    action = ON_ERROR[tenant] if failed else "allow"
    taken = "allow" if mode == "shadow" else action
    stopped = taken in ("block", "undecided")
    status = STATUS_OF_FAULT[fault]
    for route, usual_stage in STAGES.items():
        # In shadow mode a stream goes through as it comes, and is judged at its end.
        late = mode == "shadow" and route in ("stream reply", "stream window")
        stage = "post_hoc" if late else usual_stage

        def counts(stage: str = stage) -> list[float]:
            return [
                metric("decisions_total", stage=stage, action=action, mode=mode),
                metric("verdicts_total", guard="faulty", status=status),
                metric("stream_stops_total"),
            ]

        before = counts()
        answered = ask(route, f"Please FAULT:{fault} now", key_of[tenant])

        # The body.
        assert answered.response.status_code == 200
        if route == "moderation":
            assert answered.reason == str(taken != "allow")
        elif not stopped:
            assert (answered.reason, answered.shown) == ("stop", answered.unhindered)
        else:
            assert answered.reason == "content_filter"
            assert "FAULT" not in answered.shown
            assert answered.shown in ("", MESSAGE) or FILLER.startswith(answered.shown)
        told = next(
            each for each in answered.decisions if each["status"] == status and each.get("stage", stage) == stage
        )
        assert (told["action"], told["taken"]) == (action, taken)
        assert told["flagged"] is (None if failed else False)

        # The rows of the audit log.
        rows = find_decisions(server.database, Search(request_id=answered.response.headers["x-request-id"]))
        assert {row["id"] for row in rows} == {decision["id"] for decision in answered.decisions}
        row = next(row for row in rows if row["id"] == told["id"])
        assert (row["action"], row["taken"], row["failed"], row["stage"]) == (action, taken, failed, stage)
        assert (row["tenant"], row["policy"], row["flagged"]) == (tenant, f"{tenant} 1", told["flagged"])
        assert [verdict["status"] for verdict in row["verdicts"]] == [status]
        assert "secret" not in str(rows)

        # The metrics: as many as there are rows.
        statuses = [verdict["status"] for row in rows for verdict in row["verdicts"]]
        decided = [row for row in rows if (row["stage"], row["action"]) == (stage, action)]
        stops = stopped and route in ("stream reply", "stream window")
        found = [after - then for after, then in zip(counts(), before, strict=True)]
        assert found == [len(decided), statuses.count(status), float(stops)]
