"""The model behind the gateway: another server over HTTP, and an engine in this process."""

from __future__ import annotations

import asyncio
import concurrent.futures as futures
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from corral.core.errors import ConfigError, EngineError, NotFoundError
from corral.data.messages import Conversation
from corral.models.engines.base import GenerationSettings
from corral.models.engines.loading import load_engine
from corral.models.engines.scripted import ScriptedEngine
from corral.models.loading import load_causal_lm, weights_revision
from corral.models.routing.files import save_routing
from corral.models.routing.installing import RoutingShape, install_routing
from corral.models.tiny import write_tiny_llama
from corral.serve.batching import QueueFullError
from corral.serve.engine_upstream import EngineUpstream
from corral.serve.errors import RequestError
from corral.serve.settings import ServeSettings
from corral.serve.upstream import OpenAIUpstream, load_upstream

BODY = {"messages": [{"role": "user", "content": "hello"}]}


class Answering(BaseHTTPRequestHandler):
    """Answers as its class says."""

    status = 200
    answer: ClassVar[Any] = {"choices": [{"message": {"content": "hi"}}]}
    seen: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).seen.append({"body": body, "authorization": self.headers.get("Authorization")})
        if body.get("stream"):
            content = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in self.answer)
            kind = "text/event-stream"
        else:
            content, kind = json.dumps(self.answer).encode(), "application/json"
        self.send_response(self.status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        content = json.dumps(self.answer).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def peer() -> Iterator[tuple[str, type[Answering]]]:
    class Own(Answering):
        seen: ClassVar[list[dict[str, Any]]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Own) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", Own
        server.shutdown()


def complete(url: str, **options: Any) -> Any:
    async def main() -> Any:
        upstream = OpenAIUpstream(url, timeout=10, **options)
        try:
            return await upstream.complete(BODY)
        finally:
            await upstream.aclose()

    return asyncio.run(main())


def test_a_request_goes_on_with_the_operators_key(peer: tuple[str, type[Answering]]) -> None:
    url, handler = peer
    assert complete(url, api_key="upstream-key")["choices"][0]["message"]["content"] == "hi"
    assert handler.seen == [{"body": BODY, "authorization": "Bearer upstream-key"}]


@pytest.mark.parametrize(
    ("theirs", "ours", "code"),
    [(400, 400, "upstream_refused"), (404, 400, "upstream_refused"), (401, 502, "upstream_failed"),
     (501, 502, "upstream_failed")],
)  # fmt: skip
def test_their_refusals_become_ours_without_their_words(
    peer: tuple[str, type[Answering]], theirs: int, ours: int, code: str
) -> None:
    url, handler = peer
    handler.status, handler.answer = theirs, {"error": {"message": "a secret"}}
    with pytest.raises(RequestError) as refused:
        complete(url)
    assert (refused.value.status, refused.value.code) == (ours, code)
    assert "secret" not in str(refused.value)


def test_a_server_that_is_not_there_is_502() -> None:
    with pytest.raises(RequestError) as refused:
        complete("http://127.0.0.1:9")
    assert refused.value.status == 502
    assert "127.0.0.1" not in str(refused.value)


def test_an_answer_that_is_too_long_is_not_read_to_its_end(
    peer: tuple[str, type[Answering]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = peer
    handler.answer = {"choices": [{"message": {"content": "x" * 100_000}}]}
    monkeypatch.setattr("corral.serve.upstream._MOST_BYTES", 10_000)
    with pytest.raises(RequestError) as refused:
        complete(url)
    assert refused.value.status == 502


def test_a_stream_comes_event_by_event(peer: tuple[str, type[Answering]]) -> None:
    url, handler = peer
    handler.answer = [{"choices": [{"delta": {"content": piece}}]} for piece in ("a", "b")]

    async def main() -> list[Any]:
        upstream = OpenAIUpstream(url, timeout=10)
        try:
            return [event async for event in upstream.stream(BODY)]
        finally:
            await upstream.aclose()

    assert asyncio.run(main()) == handler.answer
    assert handler.seen[0]["body"]["stream"] is True


def test_the_servers_models_are_listed_and_one_that_does_not_say_has_none(peer: tuple[str, type[Answering]]) -> None:
    async def main(url: str) -> list[str]:
        upstream = OpenAIUpstream(url, timeout=10)
        try:
            return await upstream.models()
        finally:
            await upstream.aclose()

    url, handler = peer
    handler.answer = {"data": [{"id": "llama"}, {"id": 5}, 6]}
    assert asyncio.run(main(url)) == ["llama"]
    handler.answer = {"data": "nonsense"}
    assert asyncio.run(main(url)) == []
    handler.status = 404
    assert asyncio.run(main(url)) == []


def test_settings_choose_the_upstream() -> None:
    assert load_upstream(ServeSettings(upstream="none")) is None
    assert isinstance(load_upstream(ServeSettings(upstream="http://127.0.0.1:9/v1")), OpenAIUpstream)
    embedded = load_upstream(ServeSettings())
    assert isinstance(embedded, EngineUpstream)
    assert embedded.name == "embedded:smollm2-135m-instruct"
    with pytest.raises(ConfigError):
        load_upstream(ServeSettings(upstream="ftp://x"))


def gated_folder(tmp_path: Path) -> Path:
    """Routing parts beside a tiny base; every gate shut but the reluctant one's."""
    base = write_tiny_llama(tmp_path / "base", weight_std=0.2)
    model = load_causal_lm(base)
    routing = install_routing(model, RoutingShape((0, 1, 2), rank=2, alpha=64, router="collapsed"))
    with torch.no_grad():
        for parameter in routing.parameters("unwill"):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        for each in routing.gated.values():
            each.unwill_router.bias.fill_(9.0)
            each.glad_router.bias.fill_(-9.0)
    revision = weights_revision(base)
    save_routing(model, routing, tmp_path / "mogu", base=str(base), base_revision=revision, first_tokens=3)
    return tmp_path / "mogu"


def test_a_directory_of_routing_parts_answers_behind_the_gateway_whole_and_streamed(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path)
    settings = GenerationSettings(max_new_tokens=8)
    expected = load_engine(folder).generate([Conversation.user("hello")], settings)[0].text
    assert expected != load_engine(tmp_path / "base").generate([Conversation.user("hello")], settings)[0].text

    async def main() -> tuple[dict[str, Any], str]:
        upstream = load_upstream(ServeSettings(upstream=str(folder)))
        assert isinstance(upstream, EngineUpstream)
        assert upstream.name == "mogu"
        body = {**BODY, "max_tokens": 8}
        pieces = [event["choices"][0]["delta"].get("content", "") async for event in upstream.stream(body)]
        return await upstream.complete(body), "".join(pieces)

    whole, streamed = asyncio.run(main())
    assert whole["choices"][0]["message"]["content"] == streamed == expected


def test_a_folder_without_a_model_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="neither a model nor routing parts"):
        load_upstream(ServeSettings(upstream=str(tmp_path)))


def engine(**options: Any) -> EngineUpstream:
    return EngineUpstream(lambda: ScriptedEngine({"hello": "hi there, you"}, **options), name="scripted")


def test_an_engine_answers_in_openais_shape() -> None:
    answer = asyncio.run(engine().complete({**BODY, "n": 2, "max_tokens": 2}))
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["hi", "hi"]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


def test_an_engine_that_fails_is_502_and_frees_its_turn() -> None:
    def broken(_: Any) -> str:
        raise EngineError("a secret")

    async def main() -> None:
        upstream = EngineUpstream(lambda: ScriptedEngine(broken))
        for _ in range(3):
            with pytest.raises(RequestError) as refused:
                await upstream.complete(BODY)
            assert refused.value.status == 502
            with pytest.raises(RequestError):
                [event async for event in upstream.stream(BODY)]

    asyncio.run(main())


def test_giving_up_a_stream_frees_the_engine() -> None:
    async def main() -> Any:
        upstream = engine()
        events = upstream.stream(BODY)
        await anext(events)
        await anext(events)
        await events.aclose()
        return await asyncio.wait_for(upstream.complete(BODY), 30)

    assert asyncio.run(main())["choices"][0]["message"]["content"] == "hi there, you"


@pytest.mark.parametrize("field", ["tools", "response_format", "prediction"])
def test_what_the_embedded_model_cannot_do_is_refused(field: str) -> None:
    with pytest.raises(RequestError) as refused:
        asyncio.run(engine().complete({**BODY, field: {"type": "x"}}))
    assert (refused.value.status, refused.value.param) == (400, field)


class Slow(ScriptedEngine):
    """Waits for ``go`` before it answers, and notes how many answers are under way."""

    def __init__(self) -> None:
        super().__init__({"hello": "hi"})
        self.go = threading.Event()
        self.now = 0
        self.most = 0
        self.asked = 0

    def generate(self, prompts: Any, settings: Any) -> Any:
        self.now += 1
        self.asked += 1
        self.most = max(self.most, self.now)
        assert self.go.wait(30)
        self.now -= 1
        return super().generate(prompts, settings)


def test_requests_that_were_given_up_leave_one_computation_and_free_their_places() -> None:
    slow = Slow()

    async def main() -> Any:
        upstream = EngineUpstream(lambda: slow)
        for _ in range(40):  # more than may wait: each gives its place back
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await upstream.complete(BODY)
        slow.go.set()
        return await asyncio.wait_for(upstream.complete(BODY), 30)

    assert asyncio.run(main())["choices"][0]["message"]["content"] == "hi"
    assert (slow.most, slow.asked) == (1, 2)


def test_requests_beyond_those_that_may_wait_are_refused_and_nobody_elses_thread_is_taken() -> None:
    slow = Slow()

    async def main() -> list[Any]:
        upstream = EngineUpstream(lambda: slow)
        first = asyncio.create_task(upstream.complete(BODY))
        while slow.now == 0:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(upstream.complete(BODY)) for _ in range(30)]
        await asyncio.sleep(0)
        # The threads that the console and the log are served with.
        assert await asyncio.wait_for(asyncio.to_thread(threading.active_count), 5) > 0
        slow.go.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    answers = asyncio.run(main())
    assert sum(isinstance(answer, QueueFullError) for answer in answers) == 14
    assert sum(isinstance(answer, dict) for answer in answers) == 17
    assert slow.most == 1


def test_too_many_chats_are_429(start: Any) -> None:
    slow = Slow()
    running = start(upstream=EngineUpstream(lambda: slow))
    with futures.ThreadPoolExecutor(24) as threads:
        asked = [threads.submit(running.chat, "hello") for _ in range(24)]
        futures.wait(asked, return_when=futures.FIRST_COMPLETED)  # the first to be answered is one that is refused
        slow.go.set()
        answers = [each.result() for each in asked]
    assert {answer.status_code for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
