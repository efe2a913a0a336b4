"""The openai engine against a server on this machine: answers, failures that pass, failures that do not, and limits.

Golden numbers are those of the torch engine: the fake server computes its answers with the same tiny model.
"""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from corral.core.errors import ConfigError, DataError, EngineError
from corral.data.messages import Conversation
from corral.models.engines.base import CompletionLogprobs, Engine, GenerationSettings
from corral.models.engines.openai import OpenAIEngine
from corral.models.engines.openai_connection import API_KEY_VARIABLE, ConnectionSettings, api_url
from corral.models.engines.torch import TorchEngine

SETTINGS = GenerationSettings(max_new_tokens=12)
FAST = ConnectionSettings(timeout=5.0, backoff=0.01, max_retries=3, concurrency=4)
KEY = "sk-not-to-be-seen"


@dataclass
class Reply:
    """``hold`` keeps the connection open, silent, until the server stops or the client leaves."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] | None = None
    hold: bool = False


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    prompt: Any


class FakeServer:
    """Answers from ``script``, in a thread a request; counts what is under way."""

    def __init__(self) -> None:
        self.script: Callable[[Request], Reply] = lambda request: completion("")
        self.requests: list[Request] = []
        self.under_way = self.most_under_way = 0
        self.left = threading.Event()
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def stop(self) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _handler(fake) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body.get("prompt", body.get("messages"))
                request = Request(self.path, dict(self.headers), body, prompt)
                with fake._lock:
                    fake.requests.append(request)
                    fake.under_way += 1
                    fake.most_under_way = max(fake.most_under_way, fake.under_way)
                try:
                    self.answer(fake.script(request))
                except ConnectionError:
                    fake.left.set()
                finally:
                    with fake._lock:
                        fake.under_way -= 1

            def answer(self, reply: Reply) -> None:
                data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.chunks is None and not reply.hold:
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                    return
                self.close_connection = True
                self.end_headers()
                for chunk in reply.chunks or ():
                    self.wfile.write(chunk)
                    self.wfile.flush()
                if reply.hold:
                    self.connection.settimeout(0.02)
                    while not fake.stopping.is_set():
                        try:
                            if not self.connection.recv(1):
                                fake.left.set()
                                return
                        except TimeoutError:
                            continue

        return Handler


@pytest.fixture
def server(monkeypatch) -> Iterator[FakeServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    fake = FakeServer()
    yield fake
    fake.stop()


@pytest.fixture
def connect(server) -> Iterator[Callable[..., OpenAIEngine]]:
    engines = []

    def open_engine(**options: Any) -> OpenAIEngine:
        engines.append(OpenAIEngine(server.url, "tiny", **({"connection": FAST} | options)))
        return engines[-1]

    yield open_engine
    for engine in engines:
        engine.close()


def completion(text: str, *, finish: str | None = "stop", **choice: Any) -> Reply:
    return Reply({"choices": [{"text": text, "finish_reason": finish, **choice}], "usage": {"prompt_tokens": 3}})


def events(*values: Any, done: bool = True, hold: bool = False) -> Reply:
    chunks = [f"data: {json.dumps(value, ensure_ascii=False)}\r\n\r\n".encode() for value in values]
    chunks += [b"data: [DONE]\n\n"] if done else []
    return Reply(chunks=chunks, headers={"Content-Type": "text/event-stream; charset=utf-8"}, hold=hold)


def piece(text: str | None, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"text": text, "finish_reason": finish}]}


def failing(*failures: Reply, then: Reply) -> Callable[[Request], Reply]:
    replies = [*failures]
    return lambda request: replies.pop(0) if replies else then


class TinyServer:
    """What vLLM answers to prompts of token ids, or with ``llama_cpp`` what llama.cpp does, from a model in memory.

    ``forces`` is how it takes ``allowed_token_ids``: with the probabilities before or after, or not at all.
    """

    def __init__(self, llama, chat, *, llama_cpp: bool = False, listed: int = 20, forces: str = "") -> None:
        self.llama, self.chat, self.llama_cpp, self.listed = llama, chat, llama_cpp, listed
        self.forces = forces
        self.engine = TorchEngine(llama, chat)

    def __call__(self, request: Request) -> Reply:
        body, ids = request.body, request.prompt
        assert request.path == "/v1/completions"
        assert all(isinstance(token, int) for token in ids)
        if body.get("echo") and self.llama_cpp:
            return Reply({"error": {"message": "Only no echo is supported"}}, status=400)
        logprobs_TV = self.llama(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        sampled = logprobs_TV[-1].argmax().item()
        if self.forces and "allowed_token_ids" in body:
            (sampled,) = body["allowed_token_ids"]
            if self.forces == "after":
                logprobs_TV[-1] = -100.0
                logprobs_TV[-1, sampled] = 0.0
        if body.get("echo"):
            tokens = [*ids, sampled]
            rows = [None, *(self.row(logprobs_TV[i], tokens[i + 1], body["logprobs"]) for i in range(len(ids)))]
            logprobs = {
                "tokens": [self.written(token) for token in tokens],
                "token_logprobs": [None, *(logprobs_TV[i, tokens[i + 1]].item() for i in range(len(ids)))],
                "top_logprobs": rows,
            }
        elif self.llama_cpp:
            values, top = logprobs_TV[-1].topk(min(self.listed, body["n_probs"]))
            entries = [{"id": t, "token": "", "logprob": v} for t, v in zip(top.tolist(), values.tolist(), strict=True)]
            logprobs = {"content": [{**entries[0], "top_logprobs": entries}]}
        else:
            top = self.row(logprobs_TV[-1], sampled, min(self.listed, body["logprobs"]))
            logprobs = {"tokens": [self.written(sampled)], "token_logprobs": [max(top.values())], "top_logprobs": [top]}
        choice = {"text": self.chat.decode([sampled]), "finish_reason": "length", "logprobs": logprobs}
        return Reply({"choices": [choice], "usage": {"prompt_tokens": len(ids)}})

    def row(self, logprobs_V: torch.Tensor, token: int, count: int) -> dict[str, float]:
        values, top = logprobs_V.topk(count)
        listed = {token: logprobs_V[token].item()} | dict(zip(top.tolist(), values.tolist(), strict=True))
        # Of tokens with one text, a dictionary keeps the last: the least likely.
        return {self.written(index): listed[index] for index in sorted(listed, key=listed.__getitem__, reverse=True)}

    def written(self, token: int) -> str:
        return f"token_id:{token}"


class SpelledServer(TinyServer):
    """As SGLang: tokens as text."""

    def written(self, token: int) -> str:
        return self.chat.backend.decode([token], skip_special_tokens=False)


def test_it_is_an_engine(connect):
    engine = connect()
    assert isinstance(engine, Engine)
    assert engine.name == "tiny"
    assert engine.generate([], SETTINGS) == []


def test_without_a_tokenizer_text_and_conversations_go_to_their_routes(server, connect):
    def script(request):
        if request.path == "/v1/chat/completions":
            message = {"message": {"content": "of chat"}, "finish_reason": "length"}
            return Reply({"choices": [message], "usage": {"prompt_tokens": 9}})
        return completion("of text")

    server.script = script
    conversation = Conversation.user("né\ud800")
    text, chat = connect().generate(["once", conversation], SETTINGS)
    assert (text.text, text.finish_reason, text.prompt_tokens, text.token_ids) == ("of text", "stop", 3, ())
    assert (chat.text, chat.finish_reason, chat.prompt_tokens) == ("of chat", "length", 9)
    bodies = {request.path: request.body for request in server.requests}
    assert bodies["/v1/completions"]["prompt"] == "once"
    assert bodies["/v1/chat/completions"]["messages"] == conversation.to_openai()
    assert all(body["model"] == "tiny" and body["max_tokens"] == 12 for body in bodies.values())


def test_with_the_tokenizer_prompts_are_sent_as_its_ids_and_control_tokens_cannot_be_written(server, connect, chat):
    end = chat.tokenizer.eos_token_id

    def script(request):
        reply = completion("hello", token_ids=[5, 6, end])
        return Reply(reply.body | {"usage": {"prompt_tokens": len(request.prompt)}})

    server.script = script
    attack = Conversation.user("<|im_end|>")
    (answer,) = connect(chat=chat).generate([attack], SETTINGS)
    assert server.requests[0].prompt == chat.encode_prompt(attack)
    assert server.requests[0].prompt.count(end) == 1
    assert (answer.token_ids, answer.prompt_tokens) == ((5, 6), len(chat.encode_prompt(attack)))


def test_a_server_that_shortens_the_prompt_is_refused(server, connect, chat):
    server.script = lambda request: completion("hello")  # which says that it read three tokens
    with pytest.raises(EngineError, match=r"read 3 tokens of a prompt of"):
        connect(chat=chat).generate(["a longer prompt"], SETTINGS)


def test_sampling_is_seeded_by_prompt_and_samplers_of_the_server_are_off(server, connect):
    settings = GenerationSettings(temperature=0.7, top_p=0.9, stop=("\n",), seed=1)
    connect(connection=ConnectionSettings(concurrency=1)).generate(["a", "a"], settings)
    connect(connection=ConnectionSettings(concurrency=1), extensions=False).generate(["a"], settings)
    first, second, plain = (request.body for request in server.requests)
    assert first["seed"] != second["seed"]
    assert first["seed"] == plain["seed"]
    assert (first["temperature"], first["top_p"], first["stop"]) == (0.7, 0.9, ["\n"])
    assert (first["top_k"], first["min_p"], first["repetition_penalty"]) == (-1, 0.0, 1.0)
    assert set(plain) == {"model", "prompt", "max_tokens", "temperature", "top_p", "stop", "seed"}


@pytest.mark.parametrize("prompt", ["once", Conversation.user("once")])
def test_a_stream_gives_the_pieces_as_they_come(server, connect, prompt):
    def script(request):
        assert request.body["stream"] is True
        if isinstance(prompt, str):
            return events(piece("one\u2028"), piece(" two"), piece("", "stop"), {"choices": [], "usage": {}})
        texts = [{"role": "assistant", "content": None}, {"content": "one\u2028"}, {"content": " two"}, {}]
        return events(*({"choices": [{"delta": text, "finish_reason": None}]} for text in texts), piece(None, "length"))

    server.script = script
    assert list(connect().stream(prompt, SETTINGS)) == ["one\u2028", " two"]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (events(piece("one"), done=False), "ended before the answer did"),
        (events(piece("one")), "ended before the answer did"),
        (events(piece("one"), {"error": {"message": "out of cache"}}), "out of cache"),
        (events(piece("one"), piece("", "abort")), "broke the answer off.*abort"),
        (events(piece("one"), "text"), "JSON str"),
        (Reply(chunks=[b'data: {"cho\n\n'], headers={"Content-Type": "text/event-stream"}), "not JSON"),
        (completion("whole"), "did not answer with a stream"),
        (events(piece("one"), done=False, hold=True), r"paused its stream for 0\.2 s"),
        (Reply({"error": "no such model"}, status=404), "404: no such model"),
    ],
    ids=["truncated", "unfinished", "error", "abort", "not an object", "garbage", "not a stream", "stalled", "refused"],
)
def test_a_broken_stream_is_an_error_never_a_short_answer(server, connect, reply, message):
    server.script = lambda request: reply
    engine = connect(connection=ConnectionSettings(timeout=0.2, backoff=0.01))
    with pytest.raises(EngineError, match=message):
        list(engine.stream("once", SETTINGS))


def test_a_stream_that_is_given_up_closes_its_connection(server, connect):
    server.script = lambda request: events(piece("one"), done=False, hold=True)
    stream = connect().stream("once", SETTINGS)
    assert next(stream) == "one"
    stream.close()
    assert server.left.wait(5)


def test_opening_a_stream_is_retried(server, connect):
    server.script = failing(Reply(status=503), then=events(piece("one", "stop")))
    assert list(connect().stream("once", SETTINGS)) == ["one"]


def test_retry_after_is_honoured_over_the_shorter_backoff(server, connect):
    server.script = failing(Reply(status=429, headers={"Retry-After": "0.3"}), then=completion("hello"))
    started = time.monotonic()
    assert connect().generate(["a"], SETTINGS)[0].text == "hello"
    assert time.monotonic() - started >= 0.3
    assert len(server.requests) == 2


def test_a_server_that_asks_to_wait_for_long_is_not_waited_for(server, connect):
    server.script = lambda request: Reply(status=429, headers={"Retry-After": "Fri, 31 Dec 2399 23:59:59 GMT"})
    with pytest.raises(EngineError, match="asks to wait"):
        connect().generate(["a"], SETTINGS)
    assert len(server.requests) == 1


@pytest.mark.parametrize("failure", [Reply(status=500), Reply(status=408), Reply(chunks=[])], ids=["500", "408", "cut"])
def test_a_failure_that_passes_is_retried(server, connect, failure):
    if failure.chunks is not None:
        failure.headers = {"Content-Length": "1000"}
    server.script = failing(failure, failure, then=completion("hello"))
    assert connect().generate(["a"], SETTINGS)[0].text == "hello"
    assert len(server.requests) == 3


def test_retries_end(server, connect):
    server.script = lambda request: Reply({"message": "overloaded"}, status=503)
    with pytest.raises(EngineError, match=r"503: overloaded \(4 attempts\)"):
        connect().generate(["a"], SETTINGS)
    assert len(server.requests) == 4


def test_a_refusal_is_not_retried(server, connect):
    server.script = lambda request: Reply({"error": {"message": "bad\n field"}}, status=400)
    with pytest.raises(EngineError, match="400: bad field"):
        connect().generate(["a"], SETTINGS)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"message": "This model's maximum context length is 160 tokens."}),
        (400, {"error": {"type": "exceed_context_size_error", "message": "too big"}}),
        (413, {}),
    ],
)
def test_a_prompt_beyond_the_context_is_the_users_to_mend(server, connect, status, body):
    server.script = lambda request: Reply(body, status=status)
    with pytest.raises(DataError, match="does not fit") as caught:
        connect().generate(["a"], SETTINGS)
    assert caught.value.where == "prompts[0]"


def test_a_timeout_counts_the_whole_attempt(server, connect):
    server.script = lambda request: Reply(chunks=[b"{"], headers={"Content-Length": "9"}, hold=True)
    engine = connect(connection=ConnectionSettings(timeout=0.1, backoff=0.01, max_retries=1))
    with pytest.raises(EngineError, match=r"within 0\.1 s \(2 attempts\)"):
        engine.generate(["a"], SETTINGS)


def test_no_server_is_an_engine_error(server):
    # Nothing listens on a port that was just given back.
    gone = FakeServer()
    gone.stop()
    with (
        OpenAIEngine(gone.url, "tiny", connection=ConnectionSettings(max_retries=0)) as engine,
        pytest.raises(EngineError, match="no answer from http"),
    ):
        engine.generate(["a"], SETTINGS)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>gateway</html>",
        b"\xff\xfe\xfa",
        b"[" * 100_000,
        [],
        {},
        {"choices": []},
        {"choices": ["a"]},
        {"choices": [{"finish_reason": "stop"}], "usage": {"prompt_tokens": 1}},
        {"choices": [{"text": "a"}], "usage": {"prompt_tokens": 1}},
        {"choices": [{"text": "a", "finish_reason": "abort"}], "usage": {"prompt_tokens": 1}},
        {"choices": [{"text": "a", "finish_reason": "stop"}]},
        {"error": {"message": "failed"}},
    ],
)
def test_garbage_is_an_engine_error(server, connect, body):
    server.script = lambda request: Reply(body)
    with pytest.raises(EngineError):
        connect().generate(["a"], SETTINGS)


def test_one_failed_request_does_not_fail_the_others(server, connect):
    server.script = lambda request: Reply(status=400) if request.prompt == "bad" else completion(request.prompt)
    prompts = ["a", "bad", "", "b"]
    first, refused, empty, last = connect().generate_each(prompts, SETTINGS)
    assert (first.text, last.text) == ("a", "b")
    assert isinstance(refused, EngineError)
    assert refused.where == "prompts[1]"
    assert isinstance(empty, DataError)
    assert empty.where == "prompts[2]"


def test_generate_raises_the_first_error_and_cancels_the_rest(server, connect):
    server.script = lambda request: Reply(status=400) if request.prompt == "bad" else Reply(hold=True)
    with pytest.raises(EngineError, match=r"prompts\[1\]"):
        connect().generate(["a", "bad", *"bcdefgh"], SETTINGS)
    assert server.left.wait(5)
    assert len(server.requests) <= FAST.concurrency


def test_concurrency_is_bounded_over_all_callers_and_order_is_kept(server, connect):
    def script(request):
        time.sleep(0.02)
        return completion(request.prompt)

    server.script = script
    engine = connect(connection=ConnectionSettings(concurrency=3))
    prompts = [str(i) for i in range(12)]
    answers: list[list[str]] = []
    callers = [
        threading.Thread(target=lambda: answers.append([g.text for g in engine.generate(prompts, SETTINGS)]))
        for _ in range(2)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert answers == [prompts, prompts]
    assert 2 <= server.most_under_way <= 3


def test_a_caller_may_itself_run_in_a_loop(server, connect):
    server.script = lambda request: completion("hello")
    engine = connect()

    async def main() -> str:
        return engine.generate(["a"], SETTINGS)[0].text

    assert asyncio.run(main()) == "hello"


def test_closing_frees_those_who_wait(server, connect):
    server.script = lambda request: Reply(hold=True)
    engine = connect()
    timer = threading.Timer(0.1, engine.close)
    timer.start()
    with pytest.raises(EngineError, match="closed"):
        engine.generate(["a"], SETTINGS)
    timer.join()
    assert server.left.wait(5)
    with pytest.raises(EngineError, match="closed"):
        engine.generate(["a"], SETTINGS)
    with pytest.raises(EngineError, match="closed"):
        next(engine.stream("a", SETTINGS))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers that send signals")
def test_an_interrupted_caller_cancels_its_requests(server, connect):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    server.script = lambda request: Reply(hold=True)
    engine = connect()
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            engine.generate(["a"], SETTINGS)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert server.left.wait(5)


def likely_text(llama, chat, ids: list[int], tokens: int = 2) -> str:
    """An answer of which each token is plain text and among the 20 likeliest, the best of those."""
    answer: list[int] = []
    while len(answer) < tokens:
        logits_V = llama(torch.tensor([[*ids, *answer]])).logits[0, -1]
        answer.append(next(i for i in logits_V.topk(20).indices.tolist() if chat.decode([i]).isprintable() and i < 94))
    assert chat.encode_text(chat.decode(answer)) == answer
    return chat.decode(answer)


def assert_same_scores(ours: list[CompletionLogprobs], expected: list[CompletionLogprobs]) -> None:
    for score, reference in zip(ours, expected, strict=True):
        assert (score.token_ids, score.greedy) == (reference.token_ids, reference.greedy)
        assert score.prompt_tokens == reference.prompt_tokens
        assert score.logprobs == pytest.approx(reference.logprobs, abs=1e-5)


@pytest.mark.parametrize("kind", [TinyServer, SpelledServer])
def test_scores_equal_those_of_the_torch_engine(server, connect, llama, chat, kind):
    server.script = kind(llama, chat)
    theirs = TorchEngine(llama, chat)
    (greedy,) = theirs.generate(["hello"], GenerationSettings(max_new_tokens=1))
    ids = chat.encode_raw("hello")
    pairs = [("hello ", "the"), (Conversation.user("tell"), "hell")]
    engine = connect(chat=chat)
    assert_same_scores(engine.logprobs(pairs), theirs.logprobs(pairs))
    assert len(server.requests) == len(pairs)
    assert_same_scores(
        engine.logprobs([(ids, "the"), (ids, greedy.text)]),
        theirs.token_logprobs([(ids, chat.encode_text("the")), (ids, greedy.token_ids)]),
    )


def test_without_echo_scores_are_looked_up_token_by_token(server, connect, llama, chat):
    server.script = TinyServer(llama, chat, llama_cpp=True)
    prompt = Conversation.user("tell")
    pairs = [(prompt, likely_text(llama, chat, chat.encode_prompt(prompt)))]
    ours = connect(chat=chat, prompt_logprobs=False).logprobs(pairs)
    assert_same_scores(ours, TorchEngine(llama, chat).logprobs(pairs))
    assert len(server.requests) == 2


@pytest.mark.parametrize("kind", [TinyServer, SpelledServer])
@pytest.mark.parametrize("listed", [1, 20])
def test_labels_have_the_probability_of_their_whole_strings(server, connect, llama, chat, kind, listed):
    server.script = kind(llama, chat, listed=listed)
    prompts = [Conversation.user("tell the hills"), chat.encode_prompt(Conversation.user("h"))]
    labels = ["he", "hello", "t"]
    expected = TorchEngine(llama, chat).token_logprobs(
        [
            (chat.encode_prompt(p) if isinstance(p, Conversation) else p, chat.encode_text(x))
            for p in prompts
            for x in labels
        ]
    )
    ours = connect(chat=chat).label_logprobs(prompts, labels)
    assert [value for row in ours for value in row] == pytest.approx([score.total for score in expected], abs=1e-5)


@pytest.mark.parametrize("forces", ["before", "after", ""])
def test_a_label_that_is_not_listed_needs_no_echo_where_the_server_can_be_held_to_it(
    server, connect, llama, chat, forces
):
    server.script = TinyServer(llama, chat, listed=1, forces=forces)
    prompts = [Conversation.user(text) for text in ("h", "tell")]
    expected = TorchEngine(llama, chat).label_logprobs(prompts, ["he", "t"])
    ours = connect(chat=chat).label_logprobs(prompts, ["he", "t"])
    assert [value for row in ours for value in row] == pytest.approx([v for row in expected for v in row], abs=1e-5)
    asked = [request.body for request in server.requests]
    assert any("allowed_token_ids" in body for body in asked)
    assert any(body.get("echo") for body in asked) == (forces != "before")


def test_labels_after_a_given_beginning_of_the_answer(server, connect, llama, chat):
    server.script = TinyServer(llama, chat)
    prompts, prefixes, labels = ["tell", Conversation.user("h"), "he"], ["hell", "", "o, t"], ["he", "t"]
    expected = TorchEngine(llama, chat).token_logprobs(
        [
            (chat.encode_prompt(prompt) + chat.encode_text(prefix), chat.encode_text(label))
            for prompt, prefix in zip(prompts, prefixes, strict=True)
            for label in labels
        ]
    )
    ours = connect(chat=chat).label_logprobs(prompts, labels, answer_prefixes=prefixes)
    assert [value for row in ours for value in row] == pytest.approx([score.total for score in expected], abs=1e-5)


def test_a_given_beginning_needs_the_tokenizer(server, connect):
    server.script = lambda request: completion("safe", logprobs={"top_logprobs": [{"safe": -0.1}]})
    engine = connect()
    assert engine.label_logprobs(["p"], ["safe"], answer_prefixes=[""]) == [(-0.1,)]
    with pytest.raises(ConfigError, match="tokenizer") as error:
        engine.label_logprobs(["p"], ["safe"], answer_prefixes=["so "])
    assert error.value.hint


def test_listed_labels_of_one_token_take_one_request(server, connect, llama, chat):
    server.script = TinyServer(llama, chat)
    prompt = chat.encode_prompt(Conversation.user("h"))
    connect(chat=chat).label_logprobs([prompt], [likely_text(llama, chat, prompt, tokens=1)])
    assert len(server.requests) == 1


def test_without_the_tokenizer_labels_are_looked_up_as_text(server, connect):
    top = {"safe": -0.1, "uns": -2.5}
    server.script = lambda request: (
        completion("safe", logprobs={"top_logprobs": [top]})
        if request.path == "/v1/completions"
        else completion("", logprobs={"content": [{"token": "safe", "logprob": -0.1, "top_logprobs": []}]})
    )
    engine = connect()
    assert engine.label_logprobs(["p", Conversation.user("p")], ["safe"]) == [(-0.1,), (-0.1,)]
    assert server.requests[-1].body["logprobs"] in (20, True)
    (error,) = engine.label_logprobs_each(["p"], ["safe", "unsafe"])
    assert isinstance(error, EngineError)
    assert "`unsafe`" in str(error)
    with pytest.raises(DataError, match="label is empty"):
        engine.label_logprobs(["p"], [""])


def test_a_token_out_of_reach_is_an_error_where_there_is_no_echo(server, connect, llama, chat):
    server.script = TinyServer(llama, chat, llama_cpp=True, listed=1)
    engine = connect(chat=chat, prompt_logprobs=False)
    with pytest.raises(EngineError, match="does not list token"):
        engine.logprobs([("he", "hello hello")])
    with pytest.raises(EngineError, match="does not list token"):
        engine.label_logprobs(["he"], ["hello hello"])


def test_scores_that_fail_are_kept_apart(server, connect, llama, chat):
    tiny = TinyServer(llama, chat)

    def script(request):
        reply = tiny(request)
        if len(request.prompt) > 8:
            reply.body["choices"][0]["logprobs"]["token_logprobs"][-2] = float("nan")
        return reply

    server.script = script
    fine, broken, empty = connect(chat=chat).logprobs_each([("h", "t"), ("h", "t" * 20), ("h", "")])
    assert fine.total < 0.0
    assert isinstance(broken, EngineError)
    assert "`nan` is not a log-probability" in str(broken)
    assert isinstance(empty, DataError)


def test_scoring_completions_needs_the_tokenizer(connect):
    with pytest.raises(ConfigError, match="tokenizer"):
        connect().logprobs([("a", "b")])


@pytest.mark.parametrize("given", ["argument", "environment"])
def test_the_key_is_sent_and_never_shown(server, connect, monkeypatch, caplog, given):
    caplog.set_level("DEBUG")
    if given == "environment":
        monkeypatch.setenv(API_KEY_VARIABLE, f" {KEY}\n")
    server.script = lambda request: Reply({"error": {"message": f"Incorrect key {KEY}"}}, status=401)
    engine = connect(**({"api_key": KEY} if given == "argument" else {}))
    with pytest.raises(EngineError, match=r"Incorrect key \[API key\]") as caught:
        engine.generate(["a"], SETTINGS)
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    shown = [str(caught.value), repr(caught.value), caplog.text, repr(engine), repr(vars(engine))]
    assert not any(KEY in text for text in shown)


def test_no_key_and_no_redirect_reach_another_server(server, connect):
    server.script = lambda request: Reply(status=307, headers={"Location": "http://127.0.0.1:1/v1/completions"})
    with pytest.raises(EngineError, match="answered 307"):
        connect().generate(["a"], SETTINGS)
    assert "Authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("https://models.example/v1/", "https://models.example/v1"),
        ("http://[::1]:8000/team/v1", "http://[::1]:8000/team/v1"),
    ],
)
def test_base_urls_are_the_root_of_the_api(given, read):
    assert api_url(given) == read


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://host:99999/v1",
        "http://host:0",
        "http://[::1/v1",
        "http://host/v1?key=x",
        "http://host/v1#x",
        "http://ho st/v1",
        "http://host/v1\n",
        "http://host/v1/chat/completions",
    ],
)
def test_other_base_urls_are_refused(url):
    with pytest.raises(ConfigError):
        api_url(url)


def test_a_password_in_a_url_is_refused_and_not_quoted():
    with pytest.raises(ConfigError) as caught:
        OpenAIEngine("http://me:secret@host/v1", "tiny")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"timeout": 0.0}, {"timeout": float("nan")}, {"max_retries": -1}, {"backoff": -1.0}, {"concurrency": 0}],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        ConnectionSettings(**options)


@pytest.mark.parametrize(("model", "key"), [("", None), ("tiny", "two words"), ("tiny", "schlüssel")])
def test_names_and_keys_that_cannot_be_sent_are_refused(model, key):
    with pytest.raises(ConfigError) as caught:
        OpenAIEngine("http://127.0.0.1:8000", model, api_key=key)
    assert key is None or key not in str(caught.value)
