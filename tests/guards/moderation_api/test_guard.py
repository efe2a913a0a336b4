"""A moderation endpoint that the test runs: its decisions are kept, and what it does not say is never harmless."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from corral.core.errors import EngineError
from corral.data.messages import Conversation, Message
from corral.guards.base import Status
from corral.guards.moderation_api.client import Moderation, ModerationClient, read_moderation
from corral.guards.moderation_api.guard import ModerationApiGuard
from corral.models.engines.openai_connection import ConnectionSettings

CODES = frozenset({"violence", "hate"})
FAST = ConnectionSettings(timeout=5.0, max_retries=0)


def result(flagged: bool, violence: float, hate: float = 0.01, **other: float) -> dict[str, Any]:
    scores = {"violence": violence, "hate": hate, **other}
    decided = {"violence": flagged, "hate": False, **dict.fromkeys(other, False)}
    return {"results": [{"flagged": flagged, "categories": decided, "category_scores": scores}]}


class Endpoint:
    """Answers by a function of the input; ``bodies`` holds what was asked."""

    def __init__(self, answer: Callable[[Any], dict[str, Any] | int]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.bodies.append(body)
                endpoint.paths.append(self.path)
                found = answer(body["input"])
                data = b"{}" if isinstance(found, int) else json.dumps(found).encode()
                self.send_response(found if isinstance(found, int) else 200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Endpoint]]:
    running: list[Endpoint] = []

    def start(answer: Callable[[Any], dict[str, Any] | int]) -> Endpoint:
        running.append(Endpoint(answer))
        return running[-1]

    yield start
    for each in running:
        each.close()


def by_words(text: Any) -> dict[str, Any] | int:
    if "break" in str(text):
        return 400
    return result("wolf" in str(text), 0.3)


def test_the_endpoints_own_decision_is_kept(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(by_words)
    client = ModerationClient(endpoint.url, "omni", connection=FAST)
    guard = ModerationApiGuard(client)
    wolf, lamb, broken = guard.classify([Conversation.user(text) for text in ("a wolf", "a lamb", "break")])
    assert (wolf.flagged, wolf.p_harm) == (True, 0.5)
    assert wolf.categories == {"openai_moderation/violence": 0.5, "openai_moderation/hate": 0.01}
    assert (lamb.flagged, lamb.p_harm) == (False, 0.3)
    assert (broken.flagged, broken.status) == (None, Status.ERROR)
    assert set(endpoint.paths) == {"/v1/moderations"}
    assert {body["model"] for body in endpoint.bodies} == {"omni"}
    client.close()


def test_prompt_and_response_are_judged_apart(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(by_words)
    client = ModerationClient(endpoint.url, connection=FAST)
    both = Conversation((Message.of("user", "a lamb?"), Message.of("assistant", "a wolf!")))
    [found, alone] = ModerationApiGuard(client).classify_both([both, Conversation.user("hm")])
    assert (found["prompt"].flagged, found["response"].flagged) == (False, True)
    assert list(alone) == ["prompt"]
    assert all("model" not in body for body in endpoint.bodies)
    client.close()


def test_what_cannot_be_read_is_not_sent(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(by_words)
    client = ModerationClient(endpoint.url, connection=FAST)
    guard = ModerationApiGuard(client, max_chars=10)
    [empty, long] = guard.classify([Conversation.user(" "), Conversation.user("x" * 11)])
    assert (empty.status, long.status) == (Status.ERROR, Status.ERROR)
    assert not endpoint.bodies
    client.close()


def test_a_score_is_moved_to_the_side_of_the_decision() -> None:
    flagged, let_be, unknown = (
        read_moderation(reply, CODES)
        for reply in (result(True, 0.2), result(False, 0.9), result(True, 0.2, weather=0.8))
    )
    assert isinstance(flagged, Moderation)
    assert isinstance(let_be, Moderation)
    assert isinstance(unknown, Moderation)
    assert (flagged.p_harm, flagged.categories["openai_moderation/violence"]) == (0.5, 0.5)
    assert 0.49 < let_be.p_harm < 0.5
    assert (unknown.p_harm, sorted(unknown.categories)) == (
        0.8,
        ["openai_moderation/hate", "openai_moderation/violence"],
    )


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"results": []},
        {"results": [1]},
        {"results": [{"flagged": False}]},
        {"results": [{"flagged": "no", "categories": {}, "category_scores": {"hate": 0.1}}]},
        {"results": [{"flagged": False, "categories": {}, "category_scores": {}}]},
        {"results": [{"flagged": False, "categories": {}, "category_scores": {"hate": 1.5}}]},
        {"results": [{"flagged": False, "categories": {}, "category_scores": {"hate": True}}]},
    ],
)
def test_an_answer_of_another_shape_is_no_verdict(reply: dict[str, Any]) -> None:
    with pytest.raises(EngineError):
        read_moderation(reply, CODES)


def corral_reply(
    action: str, mode: str = "enforce", *, status: str = "ok", p_harm: float | None = 0.9
) -> dict[str, Any]:
    """What Corral's server answers: of violence it has a score, of hate none."""
    flagged = None if status != "ok" and action == "block" else action in ("flag", "block")
    taken = "allow" if mode == "shadow" else action
    scores = {"violence": 0.8 if flagged else 0.6, "hate": 0.0}
    decision = {"action": action, "taken": taken, "flagged": flagged, "status": status, "p_harm": p_harm}
    stopped = taken != "allow"
    shown = {"flagged": stopped, "categories": dict.fromkeys(scores, stopped), "category_scores": scores}
    return {"results": [shown], "corral": {"mode": mode, "decisions": [{**decision, "unscored": ["hate"]}]}}


def test_a_decision_in_shadow_mode_is_taken_as_if_it_were_enforced() -> None:
    shadow, enforced = (read_moderation(corral_reply("block", mode), CODES) for mode in ("shadow", "enforce"))
    assert shadow == enforced
    assert isinstance(shadow, Moderation)
    assert (shadow.flagged, shadow.p_harm) == (True, 0.9)
    assert shadow.categories == {"openai_moderation/violence": 0.8}  # of hate nobody said anything


@pytest.mark.parametrize("mode", ["shadow", "enforce"])
@pytest.mark.parametrize("status", ["error", "timeout", "unparseable"])
def test_where_the_servers_guards_gave_no_verdict_there_is_none(
    serve: Callable[..., Endpoint], status: str, mode: str
) -> None:
    endpoint = serve(lambda _: corral_reply("block", mode, status=status))
    client = ModerationClient(endpoint.url, connection=FAST)
    (verdict,) = ModerationApiGuard(client).classify([Conversation.user("a wolf")])
    assert (verdict.flagged, verdict.status, verdict.p_harm) == (None, Status(status), None)
    client.close()


def test_what_one_guard_of_the_server_flagged_is_flagged_though_another_failed() -> None:
    found = read_moderation(corral_reply("flag", status="timeout"), CODES)
    assert isinstance(found, Moderation)
    assert found.flagged


def test_what_the_servers_policy_permits_is_not_flagged_by_a_score() -> None:
    found = read_moderation(corral_reply("allow"), CODES)
    assert isinstance(found, Moderation)
    assert (found.flagged, found.p_harm < 0.5) == (False, True)
    assert found.categories["openai_moderation/violence"] < 0.5


def test_a_server_whose_guards_only_say_yes_or_no_stands_for_its_word() -> None:
    found = read_moderation(corral_reply("block", p_harm=None), CODES)
    assert isinstance(found, Moderation)
    assert found.p_harm == 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"decisions": []},
        {"decisions": [{}]},
        {"decisions": [{"flagged": False, "status": "fine", "p_harm": 0.1, "unscored": []}]},
        {"decisions": [{"flagged": False, "status": [], "p_harm": 0.1, "unscored": []}]},
        {"decisions": [{"flagged": "no", "status": "ok", "p_harm": 0.1, "unscored": []}]},
        {"decisions": [{"flagged": False, "status": "ok", "p_harm": 7, "unscored": []}]},
        {"decisions": [{"flagged": False, "status": "ok", "p_harm": 0.1}]},
    ],
)
def test_a_corral_object_of_another_shape_is_no_verdict(change: dict[str, Any]) -> None:
    with pytest.raises(EngineError):
        read_moderation({**corral_reply("allow"), "corral": change}, CODES)


def test_frames_are_sent_as_pictures(serve: Callable[..., Endpoint]) -> None:
    np = pytest.importorskip("numpy")
    pytest.importorskip("PIL.Image")
    from corral.data.media import TimedFrame
    from corral.guards.media.moderation_api import ModerationApiScorer

    endpoint = serve(lambda given: 500 if len(endpoint.bodies) == 2 else result(True, 0.7))
    client = ModerationClient(endpoint.url, connection=ConnectionSettings(timeout=5, max_retries=0, concurrency=1))
    frames = [TimedFrame(i / 2, np.zeros((8, 8, 3), np.uint8)) for i in range(2)]
    first, second = ModerationApiScorer(client).score(frames)
    assert (first.time_s, first.score) == (0.0, 0.7)
    assert (second.score, second.status) == (None, Status.ERROR)
    [part] = endpoint.bodies[0]["input"]
    assert part["image_url"]["url"].startswith("data:image/jpeg;base64,")
    client.close()
