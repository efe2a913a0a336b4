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
from typing import Any, Final

from corral.data.messages import Conversation, Message
from corral.serve.audit.database import AuditError
from corral.serve.batching import QueueFullError
from corral.serve.chat.growing import Budget, GrowingChoice, GrowingReply
from corral.serve.chat.reply import FILTERED, answered, called, extension, shown_model
from corral.serve.errors import RequestError, error_body
from corral.serve.moderation import Moderation, Outcome, Question, Stage

DONE: Final = b"data: [DONE]\n\n"
_PATIENCE_SECONDS: Final = 0.05


class GuardedStream:
    """Turns the upstream's events into what the client gets, as server-sent events.

    Args:
        moderation: judges and records.
        question: what the request is judged under.
        conversation: what the reply answers.
        prompt: the decision about the request.
        budget: what the stream may take.
        model: asked for.
        choices: asked for.
        usage: the client wants counts of tokens.
    """

    def __init__(
        self,
        moderation: Moderation,
        question: Question,
        conversation: Conversation,
        prompt: Outcome,
        *,
        budget: Budget,
        model: str | None = None,
        choices: int = 1,
        usage: bool = False,
    ) -> None:
        self._moderation = moderation
        self._question = question
        self._conversation = conversation
        self._outcomes: dict[str, list[Outcome]] = {"prompt": [prompt]}
        self._budget = budget
        self._model = model
        self._wants_usage = usage
        self._created = int(time.time())
        rules = question.policy.stream
        self._passes_through = rules.mode == "post_hoc" or question.policy.mode == "shadow"
        sizes = (rules.window_chars, rules.overlap_chars) if rules.mode == "windows" else (None, 0)
        self._reply = GrowingReply(budget, most=choices, request_id=question.request_id, sizes=sizes)

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
        choices = self._reply.choices
        event: dict[str, Any] | None = first
        while event is not None:
            for choice, added in self._reply.read(event):
                async for chunk in self._of_choice(choice, added):
                    yield chunk
            if choices and all(choice.ended for choice in choices.values()):
                return  # stopped: the rest of the answer is not asked for
            event = await self._next(upstream)
        for choice in choices.values():
            if not choice.ended:
                async for chunk in self._ending(choice):
                    yield chunk
        if self._wants_usage and self._reply.usage is not None:
            yield self._frame([]) | {"usage": self._reply.usage}

    async def _next(self, upstream: AsyncGenerator[dict[str, Any]]) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(self._budget.seconds_left()):
                return await anext(upstream, None)
        except TimeoutError:
            raise self._budget.too_slow() from None

    async def _of_choice(self, choice: GrowingChoice, added: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        if not choice.opened:
            choice.opened = True
            yield self._chunk(choice, {"role": "assistant", "content": ""})
        if not self._passes_through:
            async for chunk in self._due(choice):
                yield chunk
        elif added:
            yield self._chunk(choice, added)

    async def _due(self, choice: GrowingChoice) -> AsyncIterator[dict[str, Any]]:
        """Judge the full windows of a choice, and let go what passed."""
        for name, text in choice.texts.items():
            while (window := text.due()) is not None:
                if await self._stopped([_turn(window)], "window"):
                    yield self._end(choice, FILTERED)
                    return
                yield self._chunk(choice, {name: text.release()})

    async def _ending(self, choice: GrowingChoice) -> AsyncIterator[dict[str, Any]]:
        """Judge what is left of a choice, and end it."""
        turns = [_turn(rest) for text in choice.texts.values() if (rest := text.rest()) is not None and rest.strip()]
        calls = self._reply.calls_of(choice)
        if calls:
            turns.append(called(calls))
        stage: Stage = "post_hoc" if self._passes_through else "response"
        if turns and await self._stopped(turns, stage, choice.measures):
            yield self._end(choice, FILTERED)
            return
        if not self._passes_through:
            for name, text in choice.texts.items():
                if left := text.release_rest():
                    yield self._chunk(choice, {name: left})
            if calls:
                numbered = [{"index": number} | call for number, call in enumerate(calls)]
                yield self._chunk(choice, {"tool_calls": numbered})
        yield self._end(choice, choice.reason or "stop")

    async def _stopped(
        self, turns: Sequence[Message], stage: Stage, measures: Mapping[str, float] | None = None
    ) -> bool:
        """Whether a decision, recorded by now, stops the reply. A full queue is waited for: the stream was let in."""
        self._budget.take_window()
        judged = [answered(self._conversation, turn) for turn in turns]
        deadline = time.monotonic() + self._moderation.pool.timeout
        while True:
            try:
                outcome = await self._moderation.decide(self._question, judged, stage, measures=measures)
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

    def _end(self, choice: GrowingChoice, reason: str) -> dict[str, Any]:
        choice.ended = True
        told = extension(self._question.policy, self._question.request_id, self._outcomes)
        return self._chunk(choice, {}, reason) | {"corral": told}

    def _chunk(self, choice: GrowingChoice, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
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
