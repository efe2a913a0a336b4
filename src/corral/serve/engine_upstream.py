"""An engine in this process as the model behind the gateway, in OpenAI's shapes."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final

from corral.core.errors import ConfigError, CorralError, DataError
from corral.data.messages import Conversation
from corral.models.engines.base import Engine, GenerationSettings
from corral.serve.errors import RequestError, engine_refusal
from corral.serve.settings import EMBEDDED_UPSTREAM

_DEFAULT_MAX_TOKENS: Final = 256
_PIECES_AHEAD: Final = 64
_ENGINE_QUEUE: Final = 16


class EngineUpstream:
    """An engine in this process: one request at a time, in a thread of its own; a few may wait.

    Args:
        load: makes the engine, with the first request or ``warm_up``.
        name: of the model.
    """

    def __init__(self, load: Callable[[], Engine], *, name: str = EMBEDDED_UPSTREAM) -> None:
        self.name = name
        self._load = load
        self._engine: Engine | None = None
        self._loading = threading.Lock()
        self._free = asyncio.Lock()
        self._waiting = 0

    async def models(self) -> list[str]:
        """The one model."""
        return [self.name]

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A whole answer, or several."""
        conversation, settings = _engine_request(body)
        async with self._turn():
            engine = await self._ready()
            prompts = [conversation] * (body.get("n") or 1)
            generations = await _in_thread(lambda: engine.generate(prompts, settings))
        tokens = sum(len(each.token_ids) for each in generations)
        prompt_tokens = generations[0].prompt_tokens
        return _object("chat.completion", self.name) | {
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": each.text},
                    "finish_reason": each.finish_reason,
                }
                for index, each in enumerate(generations)
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": tokens,
                "total_tokens": prompt_tokens + tokens,
            },
        }

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """Text as it is sampled; an engine's stream does not tell the limit of tokens from the end of the text."""
        conversation, settings = _engine_request(body)
        if (body.get("n") or 1) > 1:
            raise RequestError(400, "The embedded model streams one choice.", code="unsupported", param="n")
        head = _object("chat.completion.chunk", self.name)

        def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
            return head | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

        async with self._turn():
            engine = await self._ready()
            yield chunk({"role": "assistant", "content": ""})
            async with aclosing(_pieces(engine.stream(conversation, settings))) as pieces:
                async for piece in pieces:
                    yield chunk({"content": piece})
            yield chunk({}, "stop")

    def warm_up(self) -> None:
        """Load the engine in the background; an error shows when it is asked."""
        threading.Thread(target=self._try_to_load, name="upstream-loading", daemon=True).start()

    async def aclose(self) -> None:
        """Nothing is held that the process's end does not free."""

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """The engine to oneself; refused when too many wait already."""
        if self._waiting >= _ENGINE_QUEUE:
            raise RequestError(429, "Too many chats wait for the embedded model.", code="queue_full", retry_after=5)
        self._waiting += 1
        try:
            async with self._free:
                yield
        finally:
            self._waiting -= 1

    def _try_to_load(self) -> None:
        with suppress(CorralError):
            self._loaded()

    async def _ready(self) -> Engine:
        return self._engine or await _in_thread(self._loaded)

    def _loaded(self) -> Engine:
        with self._loading:
            if self._engine is None:
                self._engine = self._load()
            return self._engine


async def _in_thread(call: Callable[[], Any]) -> Any:
    try:
        return await asyncio.to_thread(call)
    except CorralError as error:
        raise engine_refusal(error) from error


async def _pieces(pieces: Iterator[str]) -> AsyncGenerator[str]:
    """What a blocking iterator yields, taken in a thread; closing this ends it after the piece at hand."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[str | BaseException | None] = asyncio.Queue()
    room = threading.Semaphore(_PIECES_AHEAD)
    given_up = threading.Event()

    def produce() -> None:
        outcome: BaseException | None = None
        try:
            for piece in pieces:
                room.acquire()
                if given_up.is_set():
                    return
                loop.call_soon_threadsafe(arrived.put_nowait, piece)
        except BaseException as error:  # handed to the consumer
            outcome = error
        finally:
            if not given_up.is_set():
                loop.call_soon_threadsafe(arrived.put_nowait, outcome)

    working = asyncio.create_task(asyncio.to_thread(produce))
    try:
        while True:
            piece = await arrived.get()
            if piece is None:
                return
            if isinstance(piece, CorralError):
                raise engine_refusal(piece) from piece
            if isinstance(piece, BaseException):
                raise piece
            room.release()
            yield piece
    finally:
        given_up.set()
        room.release()
        await asyncio.shield(working)


def _engine_request(body: Mapping[str, Any]) -> tuple[Conversation, GenerationSettings]:
    """What an engine needs of a request.

    Raises:
        RequestError: what the engine cannot do.
    """
    for field in ("tools", "response_format", "prediction"):
        if body.get(field):
            raise RequestError(
                400, f"The embedded model does not know `{field}`; use --upstream.", code="unsupported", param=field
            )
    stop = body.get("stop") or ()
    try:
        return Conversation.from_openai(body["messages"]), GenerationSettings(
            max_new_tokens=body.get("max_completion_tokens") or body.get("max_tokens") or _DEFAULT_MAX_TOKENS,
            temperature=body.get("temperature") or 0.0,
            top_p=body.get("top_p") or 1.0,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            seed=body.get("seed") or 0,
        )
    except (DataError, ConfigError) as error:
        raise RequestError(400, error.message, code="invalid_value", param=error.where) from None


def _object(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}
