"""The model behind the gateway: any OpenAI-compatible server, or a model in this process."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from corral.core.errors import CorralError, NotFoundError
from corral.models.embedded import PREFIX, embedded_model
from corral.models.engines.base import Engine
from corral.models.routing.record import has_routing
from corral.serve.engine_upstream import EngineUpstream
from corral.serve.errors import engine_refusal
from corral.serve.settings import ServeSettings

if TYPE_CHECKING:
    from corral.models.engines.openai_connection import ServerConnection

_MOST_BYTES: Final = 2**25


class Upstream(Protocol):
    """Answers chat requests in OpenAI's shapes; what it raises becomes an answer of the gateway."""

    async def models(self) -> list[str]:
        """Names of the models, for ``GET /v1/models``; none when they cannot be had."""

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
        NotFoundError: no embedded model of that name, or a folder without a model.
    """
    if settings.upstream == "none":
        return None
    if settings.upstream.startswith(PREFIX):
        embedded_model(settings.upstream)
        return EngineUpstream(_loader(settings.upstream), name=settings.upstream)
    folder = Path(settings.upstream)
    if folder.is_dir():
        _require_model(folder)
        return EngineUpstream(_loader(settings.upstream), name=folder.resolve().name)
    return OpenAIUpstream(settings.upstream, timeout=settings.limits.upstream_seconds)


def _require_model(folder: Path) -> None:
    """Say at the start, and not to the first who asks, that a folder holds no model."""
    if not has_routing(folder) and not (folder / "config.json").is_file():
        raise NotFoundError(
            "holds neither a model nor routing parts",
            where=str(folder),
            hint="A model folder holds config.json, tokenizer.json and safetensors.",
        )


def _loader(ref: str) -> Callable[[], Engine]:
    def load() -> Engine:
        from corral.models.engines.loading import load_engine

        return load_engine(ref)

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
        from corral.models.engines.openai_connection import API_KEY_VARIABLE, ConnectionSettings, ServerConnection

        self._connection: ServerConnection = ServerConnection(
            base_url,
            api_key=os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key,
            settings=ConnectionSettings(timeout=timeout, max_retries=1, concurrency=256, max_bytes=_MOST_BYTES),
        )

    async def models(self) -> list[str]:
        """What the server lists."""
        try:
            listed = (await self._connection.get("models")).get("data")
        except CorralError:
            return []
        found = [each.get("id") for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
        return [name for name in found if isinstance(name, str)]

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The server's answer."""
        try:
            return await self._connection.post("chat/completions", body)
        except CorralError as error:
            raise engine_refusal(error) from error

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The server's events."""
        try:
            async with aclosing(self._connection.events("chat/completions", {**body, "stream": True})) as events:
                async for event in events:
                    yield event
        except CorralError as error:
            raise engine_refusal(error) from error

    def warm_up(self) -> None:
        """There is nothing to load."""

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connection.aclose()
