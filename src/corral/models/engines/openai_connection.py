"""The connection to an OpenAI-compatible server: JSON over HTTP, server-sent events, retries, and errors made clear.

What may pass on its own is tried again: no connection or a lost one, a timeout, and the statuses 408, 425, 429 and 5xx.
The wait doubles from attempt to attempt with jitter, so that clients that failed together do not return together, and
is never shorter than the server's ``Retry-After``.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx2

from corral.core.errors import ConfigError, CorralError, DataError, EngineError
from corral.models.engines.openai_loop import BackgroundLoop

API_KEY_VARIABLE: Final = "CORRAL_OPENAI_API_KEY"

_CONNECT_SECONDS: Final = 10.0
_LONGEST_BACKOFF: Final = 30.0
_LONGEST_RETRY_AFTER: Final = 120.0
_SHOWN_CHARACTERS: Final = 200
_TRANSIENT_STATUSES: Final = frozenset({408, 425, 429})
_LASTING_SERVER_ERRORS: Final = frozenset({501, 505})
# vLLM and SGLang say it in words, llama.cpp and OpenAI with a code.
_TOO_LONG: Final = ("context length", "context_length", "exceed_context_size", "context size")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """How to reach a server.

    Attributes:
        timeout: seconds that one attempt may take, and that a stream may pause.
        max_retries: attempts after the first.
        backoff: seconds before the first retry, doubled with each.
        concurrency: requests under way at once, over all callers.
        max_bytes: longest answer that is not streamed, decompressed.

    Raises:
        ConfigError: a value out of range.
    """

    timeout: float = 60.0
    max_retries: int = 4
    backoff: float = 0.5
    concurrency: int = 16
    max_bytes: int = 2**28

    def __post_init__(self) -> None:
        if not 0.0 < self.timeout < math.inf:
            raise ConfigError(f"`{self.timeout}` is not a positive number of seconds", where="timeout")
        if self.max_retries < 0:
            raise ConfigError(f"`{self.max_retries}` is below 0", where="max_retries")
        if not 0.0 <= self.backoff < math.inf:
            raise ConfigError(f"`{self.backoff}` is not a number of seconds", where="backoff")
        if self.concurrency < 1:
            raise ConfigError(f"`{self.concurrency}` is below 1", where="concurrency")
        if self.max_bytes < 1:
            raise ConfigError(f"`{self.max_bytes}` is below 1", where="max_bytes")


class ServerConnection:
    """Posts JSON to one server.

    Args:
        base_url: as ``api_url`` reads it.
        api_key: sent as a bearer token to that server alone (redirects are refused), and kept out of errors.
        settings: limits and retries.

    Attributes:
        loop: where the coroutines of this class run.

    Raises:
        ConfigError: a URL or key that cannot be used.
    """

    def __init__(self, base_url: str, *, api_key: str | None, settings: ConnectionSettings) -> None:
        self.url = api_url(base_url)
        self.settings = settings
        self._api_key = _checked_key(api_key)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._api_key}"} if self._api_key else {},
            timeout=httpx2.Timeout(settings.timeout, connect=min(settings.timeout, _CONNECT_SECONDS)),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=settings.concurrency),
        )
        self.loop = BackgroundLoop(self._client.aclose)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The server's answer to a request.

        Raises:
            DataError: the prompt does not fit the model's context.
            EngineError: no answer after the retries, a refusal, or an answer that is not a JSON object.
        """
        async with self._slots:
            response = await self._retrying(lambda: self._send(path, body, stream=False))
        return self._object(response.content)

    async def get(self, path: str) -> dict[str, Any]:
        """What the server says about itself.

        Raises:
            EngineError: as for ``post``.
        """
        async with self._slots:
            response = await self._retrying(lambda: self._send(path, None, stream=False))
        return self._object(response.content)

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The objects of a streamed answer; what was streamed is never asked for again.

        Raises:
            DataError: the prompt does not fit the model's context.
            EngineError: as for ``post``, or the stream breaks off.
        """
        async with self._slots:
            response = await self._retrying(lambda: self._send(path, body, stream=True))
            try:
                # Not the client's lines: those also end at U+2028, which JSON may hold.
                async for event in httpx2.EventSource(response):
                    if event.data == "[DONE]":
                        return
                    if event.data:
                        yield self._object(event.data)
            except httpx2.TimeoutException as error:
                raise EngineError(f"{self.url} paused its stream for {self.settings.timeout:g} s") from error
            except httpx2.SSEError as error:
                raise EngineError(f"{self.url} did not answer with a stream of events: {error}") from error
            except httpx2.HTTPError as error:
                raise EngineError(f"the stream from {self.url} broke off ({type(error).__name__})") from error
            finally:
                await response.aclose()

    def close(self) -> None:
        """Cancel what is under way and close the connections."""
        self.loop.close()

    async def aclose(self) -> None:
        """Close the connections of a caller that awaits ``post`` and ``events`` in a loop of its own."""
        await self._client.aclose()

    async def _retrying(self, send: Callable[[], Awaitable[_T]]) -> _T:
        attempt = 0
        while True:
            try:
                return await send()
            except _TransientError as failure:
                wait = _jittered(self.settings.backoff, attempt)
                if failure.retry_after is not None:
                    wait = max(wait, failure.retry_after)
                attempt += 1
                if attempt > self.settings.max_retries:
                    raise EngineError(
                        f"{failure} ({attempt} attempts)", hint=failure.hint, status=failure.status
                    ) from failure
                if wait > _LONGEST_RETRY_AFTER:
                    raise EngineError(
                        f"{failure}, and asks to wait {wait:.0f} s", hint="Try again later.", status=failure.status
                    ) from failure
                await asyncio.sleep(wait)

    async def _send(self, path: str, body: Mapping[str, Any] | None, *, stream: bool) -> httpx2.Response:
        """One attempt; a stream that is a success is left open, anything else is read."""
        request = self._client.build_request(
            "GET" if body is None else "POST",
            f"{self.url}/{path}",
            # In ASCII, since text may hold lone surrogates, which UTF-8 has no bytes for.
            content=None if body is None else json.dumps(body, allow_nan=False).encode("ascii"),
            headers={
                "Content-Type": "application/json",
                "Accept": "text/event-stream" if stream else "application/json",
            },
        )
        try:
            # The client's timeouts are per read: a server that drips would hold a request for ever.
            async with asyncio.timeout(self.settings.timeout):
                response = await self._client.send(request, stream=True)
                if not (stream and response.is_success):
                    response = await self._whole(response)
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise _TransientError(
                f"{self.url} did not answer within {self.settings.timeout:g} s",
                hint="Raise the timeout or lower the concurrency.",
            ) from error
        except (httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
            # Not the error's text, here and below: it may be a proxy's URL with its password.
            raise _TransientError(
                f"no answer from {self.url} ({type(error).__name__})", hint="Is the server running there?"
            ) from error
        except httpx2.HTTPError as error:
            raise EngineError(f"the answer of {self.url} cannot be read ({type(error).__name__})") from error
        if not response.is_success:
            raise self._refusal(response)
        return response

    async def _whole(self, response: httpx2.Response) -> httpx2.Response:
        """The response with its content, read no further than it may be long."""
        content = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > self.settings.max_bytes:
                    raise EngineError(f"{self.url} answered with more than {self.settings.max_bytes:,} bytes")
        finally:
            await response.aclose()
        kept = {name: value for name in ("content-type", "retry-after") if (value := response.headers.get(name))}
        return httpx2.Response(response.status_code, headers=kept, content=bytes(content))

    def _refusal(self, response: httpx2.Response) -> Exception:
        status = response.status_code
        detail = self._shown(response.text)
        message = f"{self.url} answered {status}{f': {detail}' if detail else ''}"
        if status in _TRANSIENT_STATUSES or (status >= 500 and status not in _LASTING_SERVER_ERRORS):
            wait = _retry_after(response.headers.get("retry-after"))
            return _TransientError(message, retry_after=wait, status=status)
        if status == 413 or (status in {400, 422} and any(words in response.text.lower() for words in _TOO_LONG)):
            return DataError(
                f"the prompt does not fit the model's context: {message}",
                hint="Shorten it, read it in windows, or lower max_new_tokens; nothing is cut silently.",
            )
        return EngineError(message, hint=_HINTS.get(status), status=status)

    def _object(self, text: bytes | str) -> dict[str, Any]:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise EngineError(f"{self.url} answered with something that is not JSON", hint=_WRONG_SERVER) from error
        if not isinstance(value, dict):
            raise EngineError(f"{self.url} answered with a JSON {type(value).__name__}", hint=_WRONG_SERVER)
        if value.get("error"):
            raise EngineError(f"{self.url} reports an error: {self._shown(json.dumps(value))}")
        return value

    def _shown(self, text: str) -> str:
        """What the server says is wrong, in one short line; a server may quote the key that it refuses."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            error = value.get("error", value)
            text = str(error.get("message", "")) if isinstance(error, dict) else str(error)
        if self._api_key:
            text = text.replace(self._api_key, "[API key]")
        text = " ".join(text.split())
        return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


class _TransientError(CorralError):
    """An attempt failed in a way that may pass."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retry_after: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        self.status = status

    def __str__(self) -> str:
        return self.message


_WRONG_SERVER: Final = "Is the base URL that of an OpenAI-compatible API?"
_HINTS: Final[Mapping[int, str]] = {
    401: f"Set {API_KEY_VARIABLE} to the server's key.",
    403: f"Set {API_KEY_VARIABLE} to a key that may use the model.",
    404: "Check the model's name and the base URL, which usually ends in /v1.",
} | dict.fromkeys((301, 302, 303, 307, 308), "Give the URL that it redirects to.")


def api_url(base_url: str) -> str:
    """The root of a server's API without a slash at the end; a URL without a path gets ``/v1``.

    Raises:
        ConfigError: not an http or https URL of a host, or one with credentials, a query or a fragment.
    """
    try:
        parts = urlsplit(base_url)
        port = parts.port
        httpx2.URL(base_url)
    except (ValueError, httpx2.InvalidURL) as error:
        raise ConfigError("not a URL", where="base_url") from error
    if parts.username is not None or parts.password is not None:
        # Not quoted: it is a secret, and would be in every error.
        raise ConfigError(
            "the URL holds credentials", where="base_url", hint=f"Put the API key into {API_KEY_VARIABLE}."
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or not _is_visible(base_url):
        raise ConfigError(
            f"`{base_url}` is not an http or https URL", where="base_url", hint="For example http://127.0.0.1:8000/v1"
        )
    path = parts.path.rstrip("/")
    if parts.query or parts.fragment or path.endswith("/completions"):
        raise ConfigError(
            f"`{base_url}` is not the root of an API", where="base_url", hint="Leave out what follows /v1."
        )
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _checked_key(api_key: str | None) -> str | None:
    key = (api_key or "").strip()
    if not _is_visible(key):
        raise ConfigError("the API key has blanks or characters outside ASCII", where="api_key")
    return key or None


def _is_visible(text: str) -> bool:
    return all("!" <= character <= "~" for character in text)


def _jittered(first: float, attempt: int) -> float:
    # An exponent of 64 is past any limit, and cannot overflow.
    return min(_LONGEST_BACKOFF, first * 2.0 ** min(attempt, 64)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _retry_after(header: str | None) -> float | None:
    """Seconds to wait, from a number or a date; ``None`` for neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
