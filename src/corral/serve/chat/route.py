"""``POST /v1/chat/completions``: judge the request, ask the model, judge the reply."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from corral.core.errors import NotFoundError
from corral.serve.chat.growing import Budget
from corral.serve.chat.reply import completion, extension, read_choices, refused_choice
from corral.serve.chat.request import ReadChat, read_chat, with_messages
from corral.serve.chat.stream import GuardedStream, refused_stream
from corral.serve.errors import RequestError, json_response
from corral.serve.moderation import Moderation, Outcome, Question
from corral.serve.pictures import RemotePictures
from corral.serve.schemas import ChatRequest, parse_request
from corral.serve.settings import Limits
from corral.serve.upstream import Upstream

ROUTE: Final = "/v1/chat/completions"
_LAST_WORDS_SECONDS: Final = 30.0
"""For the client to read that the stream's time was over."""


class ChatGateway:
    """The gateway of one server.

    Args:
        moderation: judges and records.
        upstream: the model; ``None`` offers no chat.
        limits: sizes and times.
        pictures: fetches those named by address; ``None`` leaves them to the policy's ``on_error``.
    """

    def __init__(
        self, moderation: Moderation, upstream: Upstream | None, limits: Limits, pictures: RemotePictures | None = None
    ) -> None:
        self._moderation = moderation
        self._upstream = upstream
        self._limits = limits
        self._pictures = pictures

    async def answer(self, request: Request, body: bytes) -> Response:
        """Answer one request."""
        asked = parse_request(ChatRequest, body, request.headers.get("content-type", ""))
        if self._upstream is None:
            raise RequestError(404, "This server has no model to chat with.", code="no_upstream")
        chat = read_chat(asked, self._limits)
        question = self._question(request, asked)
        if self._pictures is not None:
            chat = with_messages(chat, await self._pictures.inlined(chat.conversation.messages, param="messages"))
        prompt = await self._moderation.decide(question, chat.judged, "prompt")
        if asked.stream:
            return await self._streamed(self._upstream, chat, question, prompt)
        return await self._whole(self._upstream, chat, question, prompt)

    async def _whole(self, upstream: Upstream, chat: ReadChat, question: Question, prompt: Outcome) -> Response:
        policy = question.policy
        if prompt.stopped:
            told = extension(policy, question.request_id, {"prompt": [prompt]})
            frame = completion({}, question.request_id, chat.asked.model)
            return json_response(frame | {"choices": [refused_choice(0, policy)], "corral": told})
        reply = await self._asked(upstream, chat)
        choices = read_choices(
            reply, request_id=question.request_id, most=chat.asked.n or 1, max_chars=self._limits.reply_chars
        )
        judged = {choice.index: groups for choice in choices if (groups := choice.judged(chat.conversation))}
        measured = {choice.index: choice.measures for choice in choices}
        decided = await self._moderation.decide_each(
            question, list(judged.values()), "response", measures=[measured[index] for index in judged]
        )
        outcomes = dict(zip(judged, decided, strict=True))
        shown = [
            refused_choice(choice.index, policy)
            if choice.index in outcomes and outcomes[choice.index].stopped
            else {
                "index": choice.index,
                "message": choice.message(),
                "finish_reason": choice.reason,
                "logprobs": None,
            }
            for choice in choices
        ]
        told = extension(policy, question.request_id, {"prompt": [prompt], "response": decided})
        frame = completion(reply, question.request_id, chat.asked.model)
        return json_response(frame | {"choices": shown, "corral": told})

    async def _streamed(self, upstream: Upstream, chat: ReadChat, question: Question, prompt: Outcome) -> Response:
        if prompt.stopped:
            return self._event_stream(refused_stream(question, prompt, model=chat.asked.model))
        events = upstream.stream(chat.body())
        started = time.perf_counter()
        try:
            # Taken before the answer begins, so that a refusal still has its status.
            async with asyncio.timeout(self._limits.upstream_seconds):
                first = await anext(events, None)
        except RequestError:
            self._moderation.metrics.upstream_failures.inc()
            raise
        except TimeoutError:
            self._moderation.metrics.upstream_failures.inc()
            raise _too_slow() from None
        self._moderation.metrics.upstream_seconds.observe(time.perf_counter() - started)
        if first is None:
            raise RequestError(502, "The model's server gave an empty answer.", code="upstream_failed")
        options = chat.asked.stream_options
        guarded = GuardedStream(
            self._moderation,
            question,
            chat.conversation,
            prompt,
            budget=Budget(
                chars=self._limits.reply_chars,
                windows=self._limits.stream_windows,
                seconds=self._limits.stream_seconds,
            ),
            model=chat.asked.model,
            choices=chat.asked.n or 1,
            usage=options is not None and options.include_usage,
        )
        return self._event_stream(guarded.events(events, first))

    async def _asked(self, upstream: Upstream, chat: ReadChat) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._limits.upstream_seconds):
                reply = await upstream.complete(chat.body())
        except RequestError:
            self._moderation.metrics.upstream_failures.inc()
            raise
        except TimeoutError:
            self._moderation.metrics.upstream_failures.inc()
            raise _too_slow() from None
        self._moderation.metrics.upstream_seconds.observe(time.perf_counter() - started)
        return reply

    def _event_stream(self, events: AsyncIterator[bytes]) -> Response:
        return EventStream(events, seconds=self._limits.stream_seconds + _LAST_WORDS_SECONDS)

    def _question(self, request: Request, asked: ChatRequest) -> Question:
        state = request.state
        try:
            return self._moderation.question(state.caller, state.request_id, ROUTE, asked.corral.guards)
        except NotFoundError as error:
            raise RequestError(400, error.message, code="unknown_guard", param="corral.guards") from None


class EventStream(StreamingResponse):
    """Server-sent events for a client that may read slowly, but not for ever."""

    def __init__(self, events: AsyncIterator[bytes], *, seconds: float) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; the connection ends where it takes longer."""
        try:
            async with asyncio.timeout(self._seconds):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            raise ClientDisconnect from None


def _too_slow() -> RequestError:
    return RequestError(504, "The model's server did not answer in time.", code="upstream_timeout")
