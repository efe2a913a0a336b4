"""The routes of a server, as one ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from corral.data.media import MediaAccess
from corral.serve.access import AccessLayer, refusal
from corral.serve.audit.database import AuditError
from corral.serve.batching import QueueFullError
from corral.serve.chat.route import ROUTE as CHAT_ROUTE
from corral.serve.chat.route import ChatGateway
from corral.serve.console.routes import add_console
from corral.serve.errors import RequestError, error_response, json_response
from corral.serve.fetch import fetch_public
from corral.serve.moderations import MODEL, moderate
from corral.serve.pictures import RemotePictures
from corral.serve.schemas import ChatRequest, ModerationRequest, is_model_name
from corral.serve.server import Server
from corral.serve.telemetry import CONTENT_TYPE

_MOST_MODELS: Final = 1000


def create_app(server: Server) -> AccessLayer:
    """The application; its lifespan starts and stops the server."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await server.start()
        yield
        await server.stop()

    routes = FastAPI(
        title="Corral moderation server",
        version=version("corral"),
        lifespan=lifespan,
        docs_url=None,  # both load scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    routes.add_exception_handler(404, _not_found)
    routes.add_exception_handler(405, _not_allowed)
    for kind in (RequestError, QueueFullError, AuditError, ClientDisconnect, Exception):
        routes.add_exception_handler(kind, _refused)
    _add_api(routes, server)
    _add_operations(routes, server)
    add_console(routes, server)
    return AccessLayer(
        routes,
        keys=server.keys,
        sessions=server.sessions,
        metrics=server.metrics,
        hosts=server.settings.hosts,
        body_bytes=server.settings.limits.body_bytes,
    )


def _add_api(routes: FastAPI, server: Server) -> None:
    limits = server.settings.limits
    pictures = RemotePictures(MediaAccess(fetch=fetch_public)) if server.settings.fetch_images else None
    gateway = ChatGateway(server.moderation, server.upstream, limits, pictures)

    @routes.post("/v1/moderations", openapi_extra=_body(ModerationRequest), responses=_RESPONSES)
    async def moderations(request: Request) -> Response:
        """Judge texts, as OpenAI's moderation API does."""
        body = await request.body()
        return await while_connected(request, moderate(request, body, server.moderation, limits, pictures))

    @routes.post(CHAT_ROUTE, openapi_extra=_body(ChatRequest), responses=_RESPONSES | _UPSTREAM_RESPONSES)
    async def chat_completions(request: Request) -> Response:
        """Chat through the guards, as OpenAI's chat API does; streamed or not."""
        body = await request.body()
        return await while_connected(request, gateway.answer(request, body))

    @routes.get("/v1/models", responses=_RESPONSES)
    async def models() -> Response:
        """The moderation model, the guards, and the model behind the gateway."""
        names = [MODEL, *server.moderation.pool.guards]
        if server.upstream is not None:
            names += [name for name in await server.upstream.models() if is_model_name(name)][:_MOST_MODELS]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "corral"} for name in dict.fromkeys(names)]
        return json_response({"object": "list", "data": data})


def _add_operations(routes: FastAPI, server: Server) -> None:
    @routes.get("/healthz")
    async def healthz() -> Response:
        """The process answers."""
        return json_response({"status": "ok"})

    @routes.get("/readyz", responses={503: {"description": "Not ready."}})
    async def readyz() -> Response:
        """The last canary was classified, and the audit log can be read; says where policies are stale."""
        health = server.health.health
        ready = health.ready and server.moderation.pool.in_order
        # Public, so it does not say what is wrong; the log and the console do.
        stale = {"policies": "stale"} if server.policies.problems else {}
        return json_response({"status": "ready" if ready else "not ready"} | stale, 200 if ready else 503)

    @routes.get("/metrics", responses=_RESPONSES)
    async def metrics() -> Response:
        """Prometheus metrics."""
        for guard, (items, tokens) in server.moderation.pool.waiting.items():
            server.metrics.queue_items.labels(guard).set(items)
            server.metrics.queue_tokens.labels(guard).set(tokens)
        return Response(server.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})


async def while_connected(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The work's answer; a client that goes away cancels the work, and with it its place in the queues.

    The request's body must have been read.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        gone.cancel()
        working.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(request: Request, error: Exception) -> Response:
    return refusal(error, request.state.request_id)


async def _not_found(_: Request, _error: Exception) -> Response:
    return error_response(404, "There is nothing here.", code="not_found")


async def _not_allowed(_: Request, error: Exception) -> Response:
    response = error_response(405, "This method is not offered here.", code="method_not_allowed")
    response.headers.update(getattr(error, "headers", None) or {})
    return response


def _body(shape: type[ModerationRequest] | type[ChatRequest]) -> dict[str, Any]:
    schema = shape.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema)}}}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its definitions in place of references to them; none refers to itself."""
    definitions = schema.pop("$defs", {})

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return walk(definitions[value["$ref"].rpartition("/")[2]])
            return {key: walk(item) for key, item in value.items() if key != "discriminator"}
        return [walk(item) for item in value] if isinstance(value, list) else value

    inlined: dict[str, Any] = walk(schema)
    return inlined


_UPSTREAM_RESPONSES: dict[int | str, dict[str, Any]] = {
    404: {"description": "There is no model to chat with."},
    502: {"description": "The model's server failed."},
    504: {"description": "The model's server was too slow."},
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request does not fit; the error names the field."},
    401: {"description": "No valid API key."},
    403: {"description": "The key lacks the scope."},
    413: {"description": "The body is too large."},
    415: {"description": "The body is not JSON."},
    429: {"description": "Too much at once; Retry-After says when to come again."},
    503: {"description": "The audit row could not be written, so no answer leaves."},
}
