"""Refusals in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``. None quotes content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from corral.core.errors import CorralError, DataError, EngineError


class RequestError(CorralError):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        message: for the caller.
        code: for programs.
        param: the field at fault.
        retry_after: seconds, as the header says.
    """

    def __init__(
        self, status: int, message: str, *, code: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message, where=param)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def response(self) -> Response:
        """The answer."""
        return error_response(self.status, self.message, code=self.code, param=self.param, retry_after=self.retry_after)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII, since text may hold lone surrogates, which UTF-8 has no bytes for."""
    content = json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
    return Response(content, status, headers=headers, media_type="application/json")


def error_response(
    status: int, message: str, *, code: str, param: str | None = None, retry_after: int | None = None
) -> Response:
    """An error in OpenAI's shape."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return json_response(error_body(status, message, code=code, param=param), status, headers)


def error_body(status: int, message: str, *, code: str, param: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"message": message, "type": _type(status), "param": param, "code": code}}


def engine_refusal(error: CorralError) -> RequestError:
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


def _type(status: int) -> str:
    if status in (401, 403):
        return "authentication_error" if status == 401 else "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
