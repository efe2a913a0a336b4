"""Streamed replies: windows, modes, stops, and what is recorded before anything leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from starlette.requests import ClientDisconnect

from corral.serve.chat.hold_back import HoldBack
from corral.serve.chat.route import EventStream
from corral.serve.errors import RequestError

LONG = "All is well. " * 100


def _delta(content: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    said = {} if content is None else {"content": content}
    return {"choices": [{"index": index, "delta": said | more, "finish_reason": None}]}


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


def test_choices_that_were_not_asked_for_end_the_stream(start: Any) -> None:
    for index in (1, -1, 10**9):
        answer = start(upstream=Chunks([_delta("Hi"), _delta("more", index=index)])).chat("hello", stream=True)
        assert "upstream_unreadable" in answer.text


def test_tool_calls_without_end_end_the_stream(start: Any) -> None:
    flood = [_delta(tool_calls=[{"index": number, "id": "x" * 100}]) for number in range(1000)]
    assert "upstream_unreadable" in start(upstream=Chunks(flood)).chat("hello", stream=True).text


@pytest.mark.parametrize("mode", ["windows", "buffer", "post_hoc"])
def test_all_choices_share_one_budget_of_characters(mode: str, start: Any) -> None:
    pieces = [_delta("x" * 200, index=number % 4) for number in range(8)]
    running = start(upstream=Chunks(pieces), limits={"reply_chars": 1000}, policies=policy(mode=mode))
    assert "reply_too_long" in running.chat("hello", stream=True, n=4).text


def test_a_reply_that_takes_too_many_windows_is_cut_off(start: Any, said: Any) -> None:
    running = start(policies=policy(window_chars=100, overlap_chars=50), limits={"stream_windows": 3})
    answer = running.chat(f"say {LONG}", stream=True)
    assert "reply_too_long" in answer.text
    # Each of the three windows let 50 characters go.
    assert said(answer.text) == LONG[:150]
    assert len(running.rows_of(answer)) == 1 + 3


class Endless(Chunks):
    """An upstream that goes on for ever, with words or without, or falls silent."""

    def __init__(self, event: dict[str, Any] | None) -> None:
        super().__init__([])
        self._event = event
        self.closed = False

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        try:
            yield _delta("Hi")
            while True:
                await asyncio.sleep(0.01 if self._event is not None else 60)
                yield self._event or {}
        finally:
            self.closed = True


@pytest.mark.parametrize("event", [_delta("x"), {"choices": []}, None], ids=["words", "nothing", "silence"])
def test_a_stream_has_to_end_in_time(event: dict[str, Any] | None, start: Any) -> None:
    upstream = Endless(event)
    answer = start(upstream=upstream, limits={"stream_seconds": 0.3}).chat("hello", stream=True)
    assert "stream_timeout" in answer.text
    assert "[DONE]" not in answer.text
    assert upstream.closed


def test_a_client_that_does_not_read_is_left() -> None:
    async def endless() -> AsyncGenerator[bytes]:
        while True:
            yield b"data: {}\n\n"

    async def main() -> None:
        stuck = asyncio.Event()

        async def send(_: Any) -> None:
            await stuck.wait()

        async def receive() -> Any:
            await stuck.wait()

        with pytest.raises(ClientDisconnect):
            await asyncio.wait_for(EventStream(endless(), seconds=0.1)({"type": "http"}, receive, send), 10)

    asyncio.run(main())


def test_text_that_comes_letter_by_letter_is_not_copied_with_every_letter() -> None:
    held = HoldBack(None)
    started = time.process_time()
    for _ in range(300_000):
        held.push("x")
    assert held.held == 300_000
    assert held.rest() == "x" * 300_000
    # Copying what is held with every letter would move 45 GB.
    assert time.process_time() - started < 5
