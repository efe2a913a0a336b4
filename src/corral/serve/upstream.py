"""The model behind the gateway: any OpenAI-compatible server, or the embedded model in this process."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, Protocol

from corral.core.errors import ConfigError, CorralError, DataError, EngineError
from corral.data.messages import Conversation
from corral.models.embedded import PREFIX, embedded_model
from corral.models.engines.base import Engine, GenerationSettings
from corral.serve.errors import RequestError
from corral.serve.settings import EMBEDDED_UPSTREAM, ServeSettings

if TYPE_CHECKING:
    from corral.models.engines.openai_connection import ServerConnection

_DEFAULT_MAX_TOKENS: Final = 256
_PIECES_AHEAD: Final = 64
_ENGINE_QUEUE: Final = 16


class Upstream(Protocol):
    """Answers chat requests in OpenAI's shapes; what it raises becomes an answer of the gateway."""

    @property
    def name(self) -> str:
        """The model, for ``GET /v1/models``."""

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A ``chat.completion`` object.

        Raises:
            RequestError: it cannot be had.
        """

    def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """``chat.completion.chunk`` objects; closing the generator cancels the request.

        Raises:
            RequestError: it cannot be had, or broke off.
        """

    def warm_up(self) -> None:
        """Load in the background what takes long."""

    async def aclose(self) -> None:
        """Let go of connections and threads."""


def load_upstream(settings: ServeSettings) -> Upstream | None:
    """What the settings name; ``None`` for ``none``.

    Raises:
        ConfigError: not a URL.
        NotFoundError: no embedded model of that name.
    """
    if settings.upstream == "none":
        return None
    if settings.upstream.startswith(PREFIX):
        embedded_model(settings.upstream)
        return EngineUpstream(_load_embedded(settings.upstream), name=settings.upstream)
    return OpenAIUpstream(settings.upstream, timeout=settings.limits.upstream_seconds)


def _load_embedded(ref: str) -> Callable[[], Engine]:
    def load() -> Engine:
        from corral.models.engines.torch import TorchEngine

        return TorchEngine.load(ref)

    return load


class OpenAIUpstream:
    """A server that speaks OpenAI's chat API.

    Args:
        base_url: its root; without a path, ``/v1`` is added.
        timeout: seconds for an answer, and that a stream may pause.
        api_key: sent to it alone; ``None`` reads ``CORRAL_OPENAI_API_KEY``.

    Raises:
        ConfigError: not a URL, or a key that cannot be sent.
    """

    def __init__(self, base_url: str, *, timeout: float, api_key: str | None = None) -> None:
        import os

        from corral.models.engines.openai_connection import API_KEY_VARIABLE, ConnectionSettings, ServerConnection

        self._connection: ServerConnection = ServerConnection(
            base_url,
            api_key=os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key,
            settings=ConnectionSettings(timeout=timeout, max_retries=1, concurrency=256),
        )
        self.name = "upstream"

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The server's answer."""
        try:
            return await self._connection.post("chat/completions", body)
        except CorralError as error:
            raise _refusal(error) from error

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The server's events."""
        try:
            async with aclosing(self._connection.events("chat/completions", body)) as events:
                async for event in events:
                    yield event
        except CorralError as error:
            raise _refusal(error) from error

    def warm_up(self) -> None:
        """There is nothing to load."""

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connection.aclose()


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
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A whole answer, or several."""
        conversation, settings = _engine_request(body)
        async with _Turn(self):
            engine = await self._ready()
            settings_n = [settings] * int(body.get("n") or 1)
            generations = await _in_thread(lambda: engine.generate([conversation] * len(settings_n), settings))
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
        """Text as it is sampled."""
        conversation, settings = _engine_request(body)
        if (body.get("n") or 1) > 1:
            raise RequestError(400, "The embedded model streams one choice.", code="unsupported", param="n")
        head = _object("chat.completion.chunk", self.name)

        def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
            return head | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

        async with _Turn(self):
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

    def _try_to_load(self) -> None:
        import contextlib

        with contextlib.suppress(CorralError):
            self._loaded()

    async def _ready(self) -> Engine:
        return self._engine or await _in_thread(self._loaded)

    def _loaded(self) -> Engine:
        with self._loading:
            if self._engine is None:
                self._engine = self._load()
            return self._engine


class _Turn:
    """One request's use of the engine; refuses when too many wait."""

    def __init__(self, upstream: EngineUpstream) -> None:
        self._upstream = upstream

    async def __aenter__(self) -> None:
        upstream = self._upstream
        if upstream._waiting >= _ENGINE_QUEUE:
            raise RequestError(429, "Too many chats wait for the embedded model.", code="queue_full", retry_after=5)
        upstream._waiting += 1
        try:
            await upstream._turn.acquire()
        except BaseException:
            upstream._waiting -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._upstream._turn.release()
        self._upstream._waiting -= 1


async def _in_thread(call: Callable[[], Any]) -> Any:
    try:
        return await asyncio.to_thread(call)
    except CorralError as error:
        raise _refusal(error) from error


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
                raise _refusal(piece) from piece
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


def _refusal(error: CorralError) -> RequestError:
    """An error of an engine as an answer: what the client can mend is 400, the rest is the upstream's."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, DataError):
        return RequestError(400, error.message, code="upstream_refused", param=error.where)
    status = error.status if isinstance(error, EngineError) else None
    if status == 429:
        return RequestError(429, "The model's server is busy.", code="upstream_busy", retry_after=5)
    if status is not None and 400 <= status < 500 and status not in (401, 403, 407):
        return RequestError(400, f"The model's server refused the request ({status}).", code="upstream_refused")
    # Not the error's text: it names the upstream's address, and may quote the prompt.
    return RequestError(502, "The model's server failed.", code="upstream_failed")
