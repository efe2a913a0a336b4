"""An engine in this process as the model behind the gateway, in OpenAI's shapes.

Everything that the engine does happens in one thread of its own, one request after the other: the threads that serve
the console and the audit log are never taken, and a request whose client went away still holds its place until the
engine is done with it, since a computation cannot be stopped from outside.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from corral.core.errors import ConfigError, CorralError, DataError
from corral.data.messages import Conversation
from corral.models.engines.base import Engine, Generation, GenerationSettings
from corral.serve.batching import Batcher, BatchLimits
from corral.serve.chat.measures import MEASURES
from corral.serve.errors import RequestError, engine_refusal
from corral.serve.settings import EMBEDDED_UPSTREAM

_DEFAULT_MAX_TOKENS: Final = 256
_ONE_AT_A_TIME: Final = BatchLimits(
    queue_items=16, queue_tokens=16, queue_seconds=math.inf, batch_items=1, linger_seconds=0, hang_seconds=math.inf
)


class EngineUpstream:
    """An engine in this process; sixteen requests may wait for it, more are answered 429.

    Args:
        load: makes the engine, with the first request or ``warm_up``.
        name: of the model.
    """

    def __init__(self, load: Callable[[], Engine], *, name: str = EMBEDDED_UPSTREAM) -> None:
        self.name = name
        self._load = load
        self._engine: Engine | None = None
        self._thread: Batcher[Callable[[], Any], Any] = Batcher(name, _called, _ONE_AT_A_TIME)

    async def models(self) -> list[str]:
        """The one model."""
        return [self.name]

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A whole answer, or several.

        Raises:
            QueueFullError: too many wait.
            RequestError: what the engine cannot do.
        """
        conversation, settings = _engine_request(body)
        prompts = [conversation] * (body.get("n") or 1)
        done = self._queued(lambda: self._loaded().generate(prompts, settings))
        try:
            generations: list[Generation] = await done
        except CorralError as error:
            raise engine_refusal(error) from error
        tokens = sum(len(each.token_ids) for each in generations)
        prompt_tokens = generations[0].prompt_tokens
        return _object("chat.completion", self.name) | {
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": each.text},
                    "finish_reason": each.finish_reason,
                    MEASURES: dict(each.measures),
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
        """Text as it is sampled.

        Raises:
            QueueFullError: too many wait.
            RequestError: what the engine cannot do.
        """
        conversation, settings = _engine_request(body)
        if (body.get("n") or 1) > 1:
            raise RequestError(400, "The embedded model streams one choice.", code="unsupported", param="n")
        loop = asyncio.get_running_loop()
        # Not bounded but by the tokens that were asked for: a client that reads slowly must not hold the engine.
        arrived: asyncio.Queue[str | None] = asyncio.Queue()
        given_up = threading.Event()

        def produce() -> Generation | None:
            pieces = self._loaded().stream(conversation, settings)
            try:
                while not given_up.is_set():
                    loop.call_soon_threadsafe(arrived.put_nowait, next(pieces))
            except StopIteration as ended:
                whole: Generation | None = ended.value  # of engines that tell at the end what they wrote
                return whole
            else:
                return None
            finally:
                loop.call_soon_threadsafe(arrived.put_nowait, None)

        head = _object("chat.completion.chunk", self.name)

        def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
            return head | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason, **more}]}

        done = self._queued(produce)
        try:
            opening: dict[str, Any] = {"role": "assistant"}
            while (piece := await arrived.get()) is not None:
                yield chunk(opening | {"content": piece})
                opening = {}
            whole: Generation | None = await done
            if whole is None:
                yield chunk(opening, "stop")
            else:
                yield chunk(opening, whole.finish_reason, **{MEASURES: dict(whole.measures)})
        except CorralError as error:
            raise engine_refusal(error) from error
        finally:
            given_up.set()
            done.cancel()

    def warm_up(self) -> None:
        """Load the engine in the background; an error shows when it is asked."""

        def try_to_load() -> None:
            with suppress(CorralError):
                self._loaded()

        self._queued(try_to_load)

    async def aclose(self) -> None:
        """Take no more; what is under way ends with the process."""
        self._thread.close()

    def _queued(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        return self._thread.submit([call], [1], timeout=math.inf)[0]

    def _loaded(self) -> Engine:
        """The engine; called in its thread alone."""
        if self._engine is None:
            self._engine = self._load()
        return self._engine


def _called(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    return [call() for call in calls]


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
