"""Who may ask what: one layer around every route, so that a new route is closed until someone opens it.

In order: a request id; the Host header of an open server; the key or console session; its scope; its rate; the size of
the body. The layer also times and counts requests, and turns whatever escapes a route into an error without details.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from math import ceil
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corral.guards.failures import failure_detail
from corral.serve.audit.database import AuditError
from corral.serve.batching import QueueFullError
from corral.serve.console.pages import login_page
from corral.serve.console.sessions import Sessions
from corral.serve.errors import RequestError
from corral.serve.keys import ApiKey, KeyStore, RateLimiter
from corral.serve.moderation import Caller
from corral.serve.policies import DEFAULT_TENANT
from corral.serve.settings import is_loopback
from corral.serve.telemetry import Metrics, log

PUBLIC: Final = frozenset({"/healthz", "/readyz"})
LOGIN: Final = "/console/login"
_SCOPES: Final = {
    "/v1/moderations": "moderate",
    "/v1/chat/completions": "chat",
    "/metrics": "metrics",
}
_CONSOLE: Final = "/console"
_ADMIN_PATHS: Final = ("/console/policies",)
_RETRY_AUDIT_SECONDS: Final = 5
_CLIENT_GONE: Final = 499
_REJECTIONS: Final = {
    401: "unauthenticated", 403: "forbidden", 413: "too_large", 429: "too_many", 499: "disconnected", 503: "no_audit",
}  # fmt: skip


class AccessLayer:
    """ASGI middleware; see the module.

    Args:
        app: the routes.
        keys: who may ask.
        sessions: of the console.
        metrics: counts requests.
        hosts: names beside loopback's by which an open server may be called.
        body_bytes: largest body.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyStore,
        sessions: Sessions,
        metrics: Metrics,
        hosts: Sequence[str],
        body_bytes: int,
        rates: RateLimiter | None = None,
    ) -> None:
        self.app = app
        self._keys = keys
        self._sessions = sessions
        self._metrics = metrics
        self._hosts = frozenset(hosts)
        self._body_bytes = body_bytes
        self._rates = rates or RateLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._body_bytes)
        started = time.perf_counter()
        try:
            self._admit(scope, Headers(scope=scope))
            await self.app(scope, exchange.receive, exchange.send)
        except Exception as error:
            if exchange.answered_at is None:
                await refusal(error, scope["state"]["request_id"])(scope, exchange.receive, exchange.send)
            elif exchange.status == 200 and not isinstance(error, ClientDisconnect):
                # A stream that broke: the connection ends without its last part.
                where = failure_detail("mid-answer", error)
                log(logging.ERROR, "defect", request=scope["state"]["request_id"], error=where)
        finally:
            route = _route_name(scope)
            if exchange.status in _REJECTIONS:
                self._metrics.rejected.labels(_REJECTIONS[exchange.status]).inc()
            self._metrics.requests.labels(route, str(exchange.status)).inc()
            if exchange.answered_at is not None:
                self._metrics.request_seconds.labels(route).observe(exchange.answered_at - started)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Put who asks into the scope.

        Raises:
            RequestError: it may not.
        """
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = uuid.uuid4().hex
        state["caller"] = Caller(DEFAULT_TENANT)
        path: str = scope["path"]
        if path in PUBLIC:
            return
        if not self._keys.required:
            self._require_known_host(headers)
            state["caller"] = Caller(DEFAULT_TENANT, scopes=frozenset({"review", "admin"}), name="open server")
        elif path == LOGIN and scope["method"] == "POST":
            pass  # the route looks at the key in the form
        elif path == _CONSOLE or path.startswith(f"{_CONSOLE}/"):
            state["caller"] = self._console_caller(headers)
            if path.startswith(_ADMIN_PATHS) and scope["method"] != "GET":
                _require_scope(state["caller"], "admin")
        else:
            key = self._bearer(headers)
            state["caller"] = _caller(key)
            if (needed := _SCOPES.get(path)) is not None:
                _require_scope(state["caller"], needed)
            self._limit_rate(key)

    def _require_known_host(self, headers: Headers) -> None:
        """An open server answers to its own names only, so that no web page can rebind a name to it."""
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        name = name.strip("[]").lower()
        if not (is_loopback(name) or name in self._hosts):
            raise RequestError(403, "This server is open, and does not go by that name.", code="unknown_host")

    def _bearer(self, headers: Headers) -> ApiKey:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = self._keys.find(token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise RequestError(401, "A valid API key is needed: `Authorization: Bearer KEY`.", code="invalid_api_key")
        return key

    def _console_caller(self, headers: Headers) -> Caller:
        session = self._sessions.find(headers.get("cookie", ""))
        if session is None or not self._keys.is_active(session.caller.key_id):
            raise RequestError(401, "Log in first.", code="login_needed")
        return session.caller

    def _limit_rate(self, key: ApiKey) -> None:
        if wait := self._rates.wait_seconds(key):
            raise RequestError(
                429,
                f"This key is good for {key.per_minute} requests a minute.",
                code="rate_limit_exceeded",
                retry_after=ceil(wait),
            )


def refusal(error: Exception, request_id: str) -> Response:
    """The answer to a request that failed: what was meant for the caller, or that the server failed and no more."""
    if isinstance(error, RequestError):
        if error.code == "login_needed":
            return login_page(status=401)
        return error.response()
    if isinstance(error, QueueFullError):
        return RequestError(429, error.message, code="queue_full", retry_after=error.retry_after).response()
    if isinstance(error, AuditError):
        log(logging.ERROR, "audit_failed", request=request_id, reason=error.message)
        said = "No answer may leave without its audit row, and none could be written."
        return RequestError(503, said, code="audit_unavailable", retry_after=_RETRY_AUDIT_SECONDS).response()
    if isinstance(error, ClientDisconnect):
        return Response(status_code=_CLIENT_GONE)
    log(logging.ERROR, "defect", request=request_id, error=failure_detail("unexpected", error))
    return RequestError(500, "The server failed.", code="internal_error").response()


class _Exchange:
    """One request's body, counted, and its answer, noticed."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, body_bytes: int) -> None:
        self.status = 0
        self.answered_at: float | None = None
        self._headers = Headers(scope=scope)
        self._request_id = ""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._room = body_bytes
        self._limit = body_bytes

    async def receive(self) -> Message:
        if self._headers.get("content-length", "").isdecimal() and int(self._headers["content-length"]) > self._limit:
            raise self._too_large()
        message = await self._receive()
        self._room -= len(message.get("body", b""))
        if self._room < 0:
            raise self._too_large()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.answered_at = time.perf_counter()
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self._scope["state"]["request_id"].encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"cache-control", b"no-store"),
            ]
        await self._send(message)

    def _too_large(self) -> RequestError:
        return RequestError(413, f"The body has more than {self._limit} bytes.", code="body_too_large")


def _caller(key: ApiKey) -> Caller:
    return Caller(key.tenant, key.id, key.name, key.scopes)


def _require_scope(caller: Caller, scope: str) -> None:
    if scope not in caller.scopes:
        raise RequestError(403, f"This key does not have the scope `{scope}`.", code="scope_missing")


def _route_name(scope: Scope) -> str:
    """The route's pattern: paths that nobody serves must not become labels without number."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    return str(path) if path is not None else (scope["path"] if scope["path"] in _SCOPES else "other")
