"""A known-bad text is stopped wherever a request can hold one, and never reaches the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import pytest

from corral.serve.errors import RequestError
from corral.serve.schemas import ChatRequest

BAD = "a TRIGGER here"
HELLO = {"role": "user", "content": "hello"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "description": BAD}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}

MODERATIONS: dict[str, Any] = {
    "text": BAD,
    "list": ["hello", BAD],
    "typed part": [{"type": "text", "text": BAD}],
    "second part": [{"type": "text", "text": "hello"}, {"type": "text", "text": BAD}],
    "in the middle of much": "harmless words " * 2000 + BAD + " harmless words" * 2000,
}
CHATS: dict[str, dict[str, Any]] = {
    "user": {"messages": [{"role": "user", "content": BAD}]},
    "earlier user turn": {
        "messages": [{"role": "user", "content": BAD}, {"role": "assistant", "content": "no"}, HELLO]
    },
    "system": {"messages": [{"role": "system", "content": BAD}, HELLO]},
    "developer": {"messages": [{"role": "developer", "content": BAD}, HELLO]},
    "assistant's own words": {"messages": [HELLO, {"role": "assistant", "content": BAD}, HELLO]},
    "assistant's last words": {"messages": [HELLO, {"role": "assistant", "content": BAD}]},
    "refusal": {"messages": [HELLO, {"role": "assistant", "content": None, "refusal": BAD}, HELLO]},
    "tool result": {
        "messages": [
            HELLO,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": BAD},
        ]
    },
    "tool call's arguments": {
        "messages": [
            HELLO,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{**CALL, "function": {"name": "look", "arguments": f'{{"q": "{BAD}"}}'}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "fine"},
        ]
    },
    "tool call's name": {
        "messages": [
            HELLO,
            {"role": "assistant", "content": "", "tool_calls": [{**CALL, "function": {"name": BAD, "arguments": ""}}]},
            HELLO,
        ]
    },
    "text part": {"messages": [{"role": "user", "content": [{"type": "text", "text": BAD}]}]},
    "second text part": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": BAD}]}]
    },
    "refusal part": {
        "messages": [HELLO, {"role": "assistant", "content": [{"type": "refusal", "refusal": BAD}]}, HELLO]
    },
    "speaker's name": {"messages": [{"role": "user", "content": "hello", "name": BAD}]},
    "tool's description": {
        "messages": [HELLO],
        "tools": [{"type": "function", "function": {"name": "look", "description": BAD}}],
    },
    "tool's name": {"messages": [HELLO], "tools": [{"type": "function", "function": {"name": BAD}}]},
    "parameter's description": {
        "messages": [HELLO],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}],
    },
    "parameter's name": {
        "messages": [HELLO],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"properties": {BAD: {}}}}}],
    },
    "tool choice": {"messages": [HELLO], "tool_choice": {"type": "function", "function": {"name": BAD}}},
    "response format": {
        "messages": [HELLO],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    },
    "prediction": {"messages": [HELLO], "prediction": {"type": "content", "content": BAD}},
    "stop": {"messages": [HELLO], "stop": [BAD]},
    "stop as one text": {"messages": [HELLO], "stop": BAD},
    "prediction in parts": {
        "messages": [HELLO],
        "prediction": {"type": "content", "content": [{"type": "text", "text": BAD}]},
    },
    **{
        f"{role} in parts": {"messages": [HELLO, {"role": role, "content": [{"type": "text", "text": BAD}]}]}
        for role in ("system", "developer", "assistant")
    },
    "tool result in parts": {
        "messages": [
            HELLO,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": BAD}]},
        ]
    },
    **{
        f"{word} in a schema": {
            "messages": [HELLO],
            "tools": [{"type": "function", "function": {"name": "look", "parameters": {"properties": {"a": found}}}}],
        }
        for word, found in {
            "a default": {"default": BAD},
            "a choice": {"enum": ["x", BAD]},
            "a constant": {"const": BAD},
            "a title": {"title": BAD},
            "a pattern": {"pattern": BAD},
            "an example": {"examples": [BAD]},
            "a depth": {"items": {"anyOf": [{"properties": {"b": {"description": BAD}}}]}},
            "an unknown word": {BAD: 1},
        }.items()
    },
}

FULL: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "be brief"}], "name": "operator"},
        {"role": "developer", "content": "be kind", "name": "maker"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "hello"}, {"type": "text", "text": "you"}],
            "name": "ann",
        },
        {"role": "assistant", "content": "a moment", "refusal": "or not", "name": "helper", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "found"}], "name": "look"},
        {"role": "assistant", "content": [{"type": "text", "text": "so"}, {"type": "refusal", "refusal": "no"}]},
        {"role": "user", "content": "and then?"},
        {"role": "assistant", "content": "well"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "look",
                "description": "looks",
                "strict": True,
                "parameters": {
                    "type": "object",
                    "properties": {"q": {"type": "string", "description": "what", "enum": ["a"], "default": "a"}},
                    "required": ["q"],
                    "additionalProperties": {"anyOf": [{"const": "b", "title": "B", "format": "date"}]},
                    "$defs": {"D": {"pattern": "x*", "examples": ["xx"]}},
                },
            },
        }
    ],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "r", "description": "d", "schema": {"type": "object", "properties": {"z": {}}}},
    },
    "prediction": {"type": "content", "content": [{"type": "text", "text": "maybe"}]},
    "stop": ["END", "OVER"],
    "model": "any",
    "reasoning_effort": "low",
    "verbosity": "low",
    "modalities": ["text"],
    "service_tier": "auto",
    "logit_bias": {"5": 1.0},
    "metadata": {"trace": "t"},
    "user": "u",
    "safety_identifier": "s",
    "prompt_cache_key": "p",
    "corral": {"guards": ["scripted"]},
}
"""A request that uses every field that can hold text."""


def with_bad_text_somewhere(value: Any) -> Iterator[Any]:
    """The value with one of its texts, or one of its keys, replaced: every one in turn."""
    if isinstance(value, str):
        yield BAD
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from ({**value, key: spoilt} for spoilt in with_bad_text_somewhere(item))
            yield {BAD if each == key else each: kept for each, kept in value.items()}
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from ([*value[:index], spoilt, *value[index + 1 :]] for spoilt in with_bad_text_somewhere(item))


class Recording:
    """An upstream that notes what reaches it."""

    name = "recording"

    def __init__(self) -> None:
        self.bodies: list[Mapping[str, Any]] = []

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        return {"choices": [{"message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}]}

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        self.bodies.append(body)
        yield {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}]}

    def warm_up(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


@pytest.fixture
def upstream() -> Recording:
    return Recording()


def test_every_moderation_shape_is_flagged(start: Any) -> None:
    running = start()
    for shape, given in MODERATIONS.items():
        results = running.moderate(given).json()["results"]
        assert results[-1]["flagged"], shape
        assert results[-1]["categories"]["hate"], shape


def test_every_chat_shape_is_stopped_before_the_model(start: Any, upstream: Recording, events: Any) -> None:
    running = start(upstream=upstream)
    for shape, body in CHATS.items():
        whole = running.client.post("/v1/chat/completions", json=body)
        assert whole.status_code == 200, (shape, whole.text)
        assert whole.json()["choices"][0]["finish_reason"] == "content_filter", shape
        streamed = running.client.post("/v1/chat/completions", json={**body, "stream": True})
        assert events(streamed.text)[-1]["choices"][0]["finish_reason"] == "content_filter", shape
    assert upstream.bodies == []


def test_wherever_a_bad_text_stands_in_a_full_request_the_model_does_not_see_it(
    start: Any, upstream: Recording
) -> None:
    """It is stopped, refused as malformed, or not sent on."""
    running = start(upstream=upstream)
    numbers = {"stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed"}
    numbers |= {"presence_penalty", "frequency_penalty", "parallel_tool_calls", "store"}
    assert set(FULL) | numbers == set(ChatRequest.model_fields)
    assert running.client.post("/v1/chat/completions", json=FULL).json()["choices"][0]["finish_reason"] == "stop"
    ends: Counter[str] = Counter()
    for body in with_bad_text_somewhere(FULL):
        upstream.bodies.clear()
        for asked in (body, {**body, "stream": True}):
            answer = running.client.post("/v1/chat/completions", json=asked)
            end = "stopped" if "content_filter" in answer.text else str(answer.status_code)
            ends[end] += 1
            assert end in ("stopped", "400", "200"), (body, answer.text)
            assert len(upstream.bodies) == (0 if end != "200" else 1 + (asked is not body)), body
        assert "TRIGGER" not in str(upstream.bodies), body
    # Most places are judged; 400 for words of the API that are none any more; 200 for the seven that stay behind.
    assert ends["stopped"] > ends["400"] > ends["200"] > 0


def test_a_bad_text_is_flagged_as_a_response_too(start: Any) -> None:
    running = start()
    for shape, given in MODERATIONS.items():
        results = running.moderate(given, corral={"target": "response"}).json()["results"]
        assert results[-1]["flagged"], shape


@pytest.mark.parametrize(
    "message",
    [
        {"role": "function", "name": "look", "content": BAD},
        {"role": "assistant", "content": "hello", "function_call": {"name": "look", "arguments": BAD}},
        {"role": "user", "content": [{"type": "file", "file": {"filename": BAD, "file_data": "AAAA"}}]},
        {"role": "user", "content": "hello", "tool_calls": [CALL]},
    ],
)
def test_shapes_that_are_not_offered_are_refused(start: Any, upstream: Recording, message: dict[str, Any]) -> None:
    answer = start(upstream=upstream).chat("hello", message)
    assert answer.status_code == 400
    assert "TRIGGER" not in answer.text
    assert upstream.bodies == []


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B:free", "models/a@2024-05", "org/a+b_c", "x" * 256])
def test_names_of_models_go_on(start: Any, upstream: Recording, name: str) -> None:
    assert start(upstream=upstream).chat("hello", model=name).status_code == 200
    assert upstream.bodies[0]["model"] == name


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "<x>", "x" * 257, "é"])
def test_what_has_not_the_shape_of_a_name_is_no_model(start: Any, name: str) -> None:
    assert start().chat("hello", model=name).status_code == 400
    assert start().moderate("hello", model=name).status_code == 400


def test_fields_that_are_not_judged_do_not_reach_the_model(start: Any, upstream: Recording) -> None:
    running = start(upstream=upstream)
    unread = {
        "metadata": {"a": BAD},
        "user": BAD,
        "safety_identifier": BAD,
        "prompt_cache_key": BAD,
    }
    call = [{**CALL, "id": BAD}]
    answer = running.chat(
        "hello",
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "tool_call_id": BAD, "content": "fine"},
        **unread,
    )
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    (body,) = upstream.bodies
    assert "TRIGGER" not in str(body)
    assert body["messages"][1]["tool_calls"][0]["id"] == body["messages"][2]["tool_call_id"]


def test_every_field_of_the_request_is_judged_or_kept_back_or_holds_no_text() -> None:
    """A new field has to be put into one of these, or this fails."""
    judged = {"messages", "tools", "tool_choice", "response_format", "prediction", "stop"}
    kept_back = {"metadata", "user", "safety_identifier", "prompt_cache_key", "store", "corral"}
    pattern_or_choice = {"model", "reasoning_effort", "verbosity", "modalities", "service_tier", "logit_bias"}
    numbers = {
        "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed",
        "presence_penalty", "frequency_penalty", "parallel_tool_calls",
    }  # fmt: skip
    assert judged | kept_back | pattern_or_choice | numbers == set(ChatRequest.model_fields)


@pytest.mark.parametrize(
    "more",
    [{"chat_template": "{{ x }}"}, {"documents": []}, {"logprobs": True}, {"prompt": "x"}, {"audio": {}}],
)
def test_fields_that_nobody_knows_are_refused(start: Any, more: dict[str, Any]) -> None:
    answer = start().chat("hello", **more)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unknown_parameter"


def test_unknown_fields_of_a_message_are_refused(start: Any) -> None:
    answer = start().chat({"role": "user", "content": "hello", "audio": {"id": "x"}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[0]"


def test_sound_and_pictures_that_nobody_reads_are_blocked(start: Any) -> None:
    running = start()
    for part in (
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ):
        answer = running.chat({"role": "user", "content": [{"type": "text", "text": "look"}, part]})
        assert answer.json()["choices"][0]["finish_reason"] == "content_filter"
        assert answer.json()["corral"]["decisions"][0]["flagged"] is None


REPLIES: dict[str, dict[str, Any]] = {
    "content": {"content": BAD},
    "refusal": {"content": None, "refusal": BAD},
    "reasoning": {"content": "fine", "reasoning_content": BAD},
    "tool call": {"content": None, "tool_calls": [{**CALL, "function": {"name": "look", "arguments": BAD}}]},
}


class Answers(Recording):
    """An upstream with one reply."""

    def __init__(self, message: dict[str, Any]) -> None:
        super().__init__()
        self._message = message

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"choices": [{"message": {"role": "assistant", **self._message}, "finish_reason": "stop"}]}

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        delta = dict(self._message)
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
        yield {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


@pytest.mark.parametrize("shape", REPLIES)
def test_every_part_of_a_reply_is_judged(shape: str, start: Any) -> None:
    running = start(upstream=Answers(REPLIES[shape]))
    whole = running.chat("hello")
    assert whole.json()["choices"][0]["finish_reason"] == "content_filter"
    assert "TRIGGER" not in whole.text
    streamed = running.chat("hello", stream=True)
    assert "TRIGGER" not in streamed.text
    assert "content_filter" in streamed.text


def test_a_harmless_tool_call_gets_through_whole(start: Any, events: Any) -> None:
    running = start(upstream=Answers({"content": None, "tool_calls": [CALL]}))
    answer = running.chat("hello")
    (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
    assert call == {**CALL, "id": f"call_{answer.headers['x-request-id']}_0_0"}
    streamed = running.chat("hello", stream=True)
    found = events(streamed.text)
    calls = [call for e in found for c in e["choices"] for call in c["delta"].get("tool_calls", [])]
    assert calls == [{"index": 0, **CALL, "id": f"call_{streamed.headers['x-request-id']}_0_0"}]


NOISE = {BAD: 1, "note": BAD, "tokens": {BAD: 2}}
HOSTILE_CALL = {"id": BAD, "type": BAD, "function": {"name": "look", "arguments": "{}", **NOISE}, **NOISE}
HOSTILE = {
    "id": BAD, "object": BAD, "model": BAD, "system_fingerprint": BAD, "service_tier": BAD,
    "usage": {**NOISE, "prompt_tokens": 3, "total_tokens": BAD, "prompt_tokens_details": {**NOISE, "cached_tokens": 2}},
    **NOISE,
}  # fmt: skip


class Hostile(Recording):
    """An upstream that writes into every field that no guard reads."""

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        message = {"role": BAD, "content": "fine", "annotations": [BAD], "tool_calls": [HOSTILE_CALL], **NOISE}
        choice = {"index": 7, "finish_reason": BAD, "logprobs": {"content": [BAD]}, "message": message, **NOISE}
        return {**HOSTILE, "choices": [choice]}

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        calls = [{**HOSTILE_CALL, "index": 0}]
        delta = {"role": BAD, "content": "fine", "annotations": [BAD], "tool_calls": calls, **NOISE}
        yield {**HOSTILE, "choices": [{"index": 0, "delta": delta, "logprobs": {"content": [BAD]}, **NOISE}]}
        yield {**HOSTILE, "choices": [{"index": 0, "delta": {}, "finish_reason": BAD}]}

    async def models(self) -> list[str]:
        return ["llama-3", BAD]


@pytest.mark.parametrize("mode", ["windows", "buffer", "post_hoc"])
def test_nothing_that_no_guard_reads_comes_from_the_model(mode: str, start: Any, events: Any) -> None:
    running = start(upstream=Hostile(), policies={"default": f"stream: {{mode: {mode}}}\n"})
    whole = running.chat("hello")
    streamed = running.chat("hello", stream=True, stream_options={"include_usage": True})
    for answer in (whole, streamed, running.client.get("/v1/models")):
        assert answer.status_code == 200
        assert "TRIGGER" not in answer.text
    counted = {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
    assert whole.json()["usage"] == events(streamed.text)[-1]["usage"] == counted
    assert whole.json()["choices"][0]["message"]["tool_calls"][0]["function"] == CALL["function"]
    said = [choice["delta"] for event in events(streamed.text) for choice in event["choices"]]
    (call,) = (call for delta in said for call in delta.get("tool_calls", []))
    assert (call["index"], call["type"], call["function"]) == (0, "function", CALL["function"])
    assert "llama-3" in running.client.get("/v1/models").text


def test_a_model_that_fails_is_502_without_its_words(start: Any) -> None:
    class Failing(Recording):
        async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
            raise RequestError(502, "The model's server failed.", code="upstream_failed")

    running = start(upstream=Failing())
    answer = running.chat("hello")
    assert answer.status_code == 502
    assert running.metric("upstream_failures_total") == 1


@pytest.mark.parametrize("reply", [{}, {"choices": []}, {"choices": [{"message": {"content": 5}}]}, {"choices": [5]}])
def test_an_answer_that_cannot_be_read_is_502(start: Any, reply: dict[str, Any]) -> None:
    class Odd(Recording):
        async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
            return reply

    assert start(upstream=Odd()).chat("hello").status_code == 502
