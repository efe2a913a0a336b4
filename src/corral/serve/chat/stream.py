"""A streamed reply on its way to the client: judged window by window, and recorded, before anything leaves.

Tool calls are held until they are whole, since half a call cannot be judged. Under ``post_hoc`` rules, and in shadow
mode, text leaves as it comes and is judged at the end.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from corral.data.messages import Conversation, Message
from corral.serve.audit.database import AuditError
from corral.serve.batching import QueueFullError
from corral.serve.chat.hold_back import HoldBack
from corral.serve.chat.reply import (
    FILTERED,
    TEXT_FIELDS,
    answered,
    called,
    extension,
    finish_reason,
    numbers,
    plain_tool_call,
    shown_model,
    unreadable,
)
from corral.serve.errors import RequestError, error_body
from corral.serve.moderation import Moderation, Outcome, Question, Stage

DONE: Final = b"data: [DONE]\n\n"
_PATIENCE_SECONDS: Final = 0.05


@dataclass(slots=True)
class _Choice:
    """One reply that grows."""

    index: int
    texts: dict[str, HoldBack] = field(default_factory=dict)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    chars: int = 0
    reason: str | None = None
    opened: bool = False
    ended: bool = False


class GuardedStream:
    """Turns the upstream's events into what the client gets, as server-sent events.

    Args:
        moderation: judges and records.
        question: what the request is judged under.
        conversation: what the reply answers.
        prompt: the decision about the request.
        model: asked for.
        usage: the client wants counts of tokens.
        max_chars: longest reply.
    """

    def __init__(
        self,
        moderation: Moderation,
        question: Question,
        conversation: Conversation,
        prompt: Outcome,
        *,
        model: str | None,
        usage: bool,
        max_chars: int,
    ) -> None:
        self._moderation = moderation
        self._question = question
        self._conversation = conversation
        self._outcomes: dict[str, list[Outcome]] = {"prompt": [prompt]}
        self._model = model
        self._wants_usage = usage
        self._max_chars = max_chars
        self._choices: dict[int, _Choice] = {}
        self._usage: dict[str, Any] | None = None
        self._created = int(time.time())
        rules = question.policy.stream
        self._passes_through = rules.mode == "post_hoc" or question.policy.mode == "shadow"
        self._sizes = (rules.window_chars, rules.overlap_chars) if rules.mode == "windows" else (None, 0)

    async def events(self, upstream: AsyncGenerator[dict[str, Any]], first: dict[str, Any]) -> AsyncIterator[bytes]:
        """Server-sent events; an error after the first of them is an event too, and ends the stream."""
        try:
            async with aclosing(upstream):
                async for chunk in self._chunks(upstream, first):
                    yield sse(chunk)
        except RequestError as error:
            yield sse(error_body(error.status, error.message, code=error.code))
        except QueueFullError:
            yield sse(error_body(429, "The guard has too much to do.", code="queue_full"))
        except AuditError:
            yield sse(error_body(503, "The audit log cannot be written.", code="audit_unavailable"))
        else:
            yield DONE

    async def _chunks(
        self, upstream: AsyncGenerator[dict[str, Any]], first: dict[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        self._model = shown_model(first, self._model)
        async for chunk in self._of_event(first):
            yield chunk
        async for event in upstream:
            async for chunk in self._of_event(event):
                yield chunk
            if self._choices and all(choice.ended for choice in self._choices.values()):
                return  # stopped: the rest of the answer is not asked for
        for choice in self._choices.values():
            if not choice.ended:
                async for chunk in self._ending(choice):
                    yield chunk
        if self._wants_usage and self._usage is not None:
            yield self._frame([]) | {"usage": self._usage}

    async def _of_event(self, event: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        self._usage = numbers(event.get("usage")) or self._usage
        choices = event.get("choices") or []
        if not isinstance(choices, list):
            raise unreadable()
        for given in choices:
            choice, delta = self._take(given)
            if choice.ended:
                continue
            if not choice.opened:
                choice.opened = True
                yield self._chunk(choice, {"role": "assistant", "content": ""})
            if self._passes_through and (shown := self._shown(delta)):
                yield self._chunk(choice, shown)
            async for chunk in self._due(choice):
                yield chunk

    def _take(self, given: object) -> tuple[_Choice, Mapping[str, Any]]:
        """Add one event's piece to its choice."""
        if not isinstance(given, Mapping):
            raise unreadable()
        index, delta = given.get("index", 0), given.get("delta") or {}
        if not isinstance(index, int) or not isinstance(delta, Mapping):
            raise unreadable()
        choice = self._choices.setdefault(index, _Choice(index))
        if choice.ended:
            return choice, delta
        for name in TEXT_FIELDS:
            piece = delta.get(name)
            if piece is None:
                continue
            if not isinstance(piece, str):
                raise unreadable()
            choice.texts.setdefault(name, HoldBack(*self._sizes)).push(piece)
            choice.chars += len(piece)
        calls = delta.get("tool_calls") or []
        if not isinstance(calls, list):
            raise unreadable()
        for piece in calls:
            choice.chars += _add_call(choice.calls, piece)
        if choice.chars > self._max_chars:
            raise RequestError(502, f"The reply has more than {self._max_chars} characters.", code="reply_too_long")
        if given.get("finish_reason") is not None:
            choice.reason = finish_reason(given["finish_reason"])
        return choice, delta

    def _shown(self, delta: Mapping[str, Any]) -> dict[str, Any]:
        """What passes through at once."""
        shown: dict[str, Any] = {name: delta[name] for name in TEXT_FIELDS if delta.get(name)}
        if delta.get("tool_calls"):
            shown["tool_calls"] = list(delta["tool_calls"])
        return shown

    async def _due(self, choice: _Choice) -> AsyncIterator[dict[str, Any]]:
        """Judge the full windows of a choice, and let go what passed."""
        if self._passes_through:
            return
        for name, text in choice.texts.items():
            while (window := text.due()) is not None:
                if await self._stopped([_turn(window)], "window"):
                    yield self._end(choice, FILTERED)
                    return
                yield self._chunk(choice, {name: text.release()})

    async def _ending(self, choice: _Choice) -> AsyncIterator[dict[str, Any]]:
        """Judge what is left of a choice, and end it."""
        turns = [_turn(rest) for text in choice.texts.values() if (rest := text.rest()) is not None and rest.strip()]
        calls = [choice.calls[number] for number in sorted(choice.calls)]
        if calls:
            turns.append(called([plain_tool_call(call) for call in calls]))
        stage: Stage = "post_hoc" if self._passes_through else "response"
        if turns and await self._stopped(turns, stage):
            yield self._end(choice, FILTERED)
            return
        if not self._passes_through:
            for name, text in choice.texts.items():
                if left := text.release_rest():
                    yield self._chunk(choice, {name: left})
            if calls:
                numbered = [{"index": number} | plain_tool_call(call) for number, call in enumerate(calls)]
                yield self._chunk(choice, {"tool_calls": numbered})
        yield self._end(choice, choice.reason or "stop")

    async def _stopped(self, turns: Sequence[Message], stage: Stage) -> bool:
        """Whether a decision, recorded by now, stops the reply. A full queue is waited for: the stream was let in."""
        judged = [answered(self._conversation, turn) for turn in turns]
        deadline = time.monotonic() + self._moderation.pool.timeout
        while True:
            try:
                outcome = await self._moderation.decide(self._question, judged, stage)
            except QueueFullError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_PATIENCE_SECONDS)
            else:
                break
        self._outcomes.setdefault(stage, []).append(outcome)
        if outcome.stopped:
            self._moderation.metrics.stream_stops.inc()
        return outcome.stopped

    def _end(self, choice: _Choice, reason: str) -> dict[str, Any]:
        choice.ended = True
        told = extension(self._question.policy, self._question.request_id, self._outcomes)
        return self._chunk(choice, {}, reason) | {"corral": told}

    def _chunk(self, choice: _Choice, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        return self._frame([{"index": choice.index, "delta": dict(delta), "finish_reason": reason, "logprobs": None}])

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._question.request_id}",
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model or "upstream",
            "choices": choices,
        }


async def refused_stream(question: Question, prompt: Outcome, *, model: str | None) -> AsyncIterator[bytes]:
    """The stream of a request that was stopped: the policy's message, and ``content_filter``."""
    frame = {
        "id": f"chatcmpl-{question.request_id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model or "upstream",
    }
    said = {"role": "assistant", "content": question.policy.message}
    told = extension(question.policy, question.request_id, {"prompt": [prompt]})
    yield sse(frame | {"choices": [{"index": 0, "delta": said, "finish_reason": None}]})
    yield sse(frame | {"choices": [{"index": 0, "delta": {}, "finish_reason": FILTERED}], "corral": told})
    yield DONE


def sse(value: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n\n"


def _turn(text: str) -> Message:
    return Message.of("assistant", text)


def _add_call(calls: dict[int, dict[str, Any]], piece: object) -> int:
    """Add a piece of a tool call; returns its characters."""
    function = piece.get("function") if isinstance(piece, Mapping) else None
    if not isinstance(piece, Mapping) or not isinstance(function, Mapping | None):
        raise unreadable()
    number = piece.get("index", len(calls))
    if not isinstance(number, int):
        raise unreadable()
    call = calls.setdefault(number, {"id": "", "function": {"name": "", "arguments": ""}})
    if isinstance(piece.get("id"), str):
        call["id"] = piece["id"]
    added = 0
    for name in ("name", "arguments"):
        text = (function or {}).get(name)
        if text is None:
            continue
        if not isinstance(text, str):
            raise unreadable()
        call["function"][name] += text
        added += len(text)
    return added
