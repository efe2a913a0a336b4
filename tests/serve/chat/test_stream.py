"""Streamed replies: windows, modes, stops, and what is recorded before anything leaves."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from corral.serve.errors import RequestError

LONG = "All is well. " * 100


def policy(**stream: Any) -> dict[str, str]:
    rules = ", ".join(f"{key}: {value}" for key, value in stream.items())
    return {"default": f"stream: {{{rules}}}\n"}


def test_a_long_harmless_reply_arrives_whole_in_several_windows(start: Any, said: Any) -> None:
    running = start(policies=policy(window_chars=300, overlap_chars=100))
    answer = running.chat(f"say {LONG}", stream=True)
    assert said(answer.text) == LONG
    rows = running.rows_of(answer)
    assert [row["stage"] for row in rows[:2]] == ["prompt", "window"]
    assert rows[-1]["stage"] == "response"
    # Each window's characters: the role in front is 11.
    assert all(row["chars"] <= 300 + len("assistant: ") for row in rows[1:])


def test_nothing_of_a_harmful_passage_leaves_and_the_stream_says_why(start: Any, said: Any, events: Any) -> None:
    running = start(policies=policy(window_chars=300, overlap_chars=100), reply=lambda _: LONG + "TRIGGER" + LONG)
    answer = running.chat("hello", stream=True)
    text = said(answer.text)
    assert LONG.startswith(text)
    assert 0 < len(text) < len(LONG)
    assert events(answer.text)[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert running.rows_of(answer)[-1]["action"] == "block"
    assert running.metric("stream_stops_total") == 1


def test_buffer_holds_everything_until_the_whole_passed(start: Any, said: Any) -> None:
    running = start(policies=policy(mode="buffer"), reply=lambda _: LONG + "TRIGGER")
    answer = running.chat("hello", stream=True)
    assert said(answer.text) == ""
    assert [row["stage"] for row in running.rows_of(answer)] == ["prompt", "response"]


def test_post_hoc_lets_through_and_then_says_that_it_should_not_have(start: Any, said: Any, events: Any) -> None:
    running = start(policies=policy(mode="post_hoc"), reply=lambda _: LONG + "TRIGGER")
    answer = running.chat("hello", stream=True)
    assert said(answer.text) == LONG + "TRIGGER"
    assert events(answer.text)[-1]["choices"][0]["finish_reason"] == "content_filter"


def test_shadow_mode_records_and_changes_nothing(start: Any, said: Any, events: Any) -> None:
    running = start(policies={"default": "mode: shadow\n"}, reply=lambda _: LONG + "TRIGGER")
    answer = running.chat("a TRIGGER", stream=True)
    assert said(answer.text) == LONG + "TRIGGER"
    assert events(answer.text)[-1]["choices"][0]["finish_reason"] == "stop"
    assert {(row["action"], row["taken"]) for row in running.rows_of(answer)} == {("block", "allow")}


def test_counts_of_tokens_come_last_where_they_are_asked_for(start: Any, events: Any) -> None:
    running = start(upstream=Chunks([_delta("Hi"), {"choices": [], "usage": {"total_tokens": 3, "note": "x"}}]))
    asked = {"stream_options": {"include_usage": True}}
    assert events(running.chat("hello", stream=True, **asked).text)[-1]["usage"] == {"total_tokens": 3}
    assert "usage" not in events(running.chat("hello", stream=True).text)[-1]


def test_a_stream_that_breaks_off_is_an_error_and_shows_nothing_unjudged(start: Any, said: Any) -> None:
    running = start(upstream=Chunks([_delta("Half a rep")], RequestError(502, "It failed.", code="upstream_failed")))
    answer = running.chat("hello", stream=True)
    assert "upstream_failed" in answer.text
    assert "Half" not in answer.text
    assert "[DONE]" not in answer.text


def test_an_upstream_that_refuses_at_once_has_its_status(start: Any) -> None:
    running = start(upstream=Chunks([], RequestError(429, "Busy.", code="upstream_busy", retry_after=5)))
    answer = running.chat("hello", stream=True)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")


def test_events_that_cannot_be_read_end_the_stream(start: Any) -> None:
    for event in ({"choices": 5}, {"choices": [5]}, {"choices": [{"delta": {"content": 5}}]}, _delta(tool_calls=5)):
        answer = start(upstream=Chunks([_delta("Hi"), event])).chat("hello", stream=True)
        assert "upstream_unreadable" in answer.text
        assert "Hi" not in answer.text


def test_each_of_several_choices_is_stopped_on_its_own(start: Any, events: Any) -> None:
    pieces = [_delta("fine", index=0), _delta("a TRIGGER", index=1), _delta("ly", index=0)]
    found = events(start(upstream=Chunks(pieces)).chat("hello", stream=True, n=2).text)
    text = {0: "", 1: ""}
    reasons = {}
    for choice in (choice for event in found for choice in event["choices"]):
        text[choice["index"]] += choice["delta"].get("content") or ""
        reasons[choice["index"]] = choice["finish_reason"]
    assert text == {0: "finely", 1: ""}
    assert reasons == {0: "stop", 1: "content_filter"}


def test_a_reply_without_end_is_cut_off(start: Any) -> None:
    running = start(upstream=Chunks([_delta("x" * 60)] * 50), limits={"reply_chars": 1000})
    assert "reply_too_long" in running.chat("hello", stream=True).text


def _delta(content: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    said = {} if content is None else {"content": content}
    return {"choices": [{"index": index, "delta": said | more, "finish_reason": None}]}


class Chunks:
    """An upstream that streams what it is given, and fails at the end where told to."""

    name = "chunks"

    def __init__(self, events: list[dict[str, Any]], error: Exception | None = None) -> None:
        self._events = events
        self._error = error

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        for event in self._events:
            yield event
        if self._error is not None:
            raise self._error

    def warm_up(self) -> None:
        pass

    async def aclose(self) -> None:
        pass
