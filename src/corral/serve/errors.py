"""Refusals in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``. None quotes content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from corral.core.errors import CorralError


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


def _type(status: int) -> str:
    if status in (401, 403):
        return "authentication_error" if status == 401 else "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
