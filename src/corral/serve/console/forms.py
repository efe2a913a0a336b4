"""Forms of the console: reading them, refusing those from elsewhere, and the session's cookie."""

from __future__ import annotations

from urllib.parse import parse_qsl

from fastapi import Request
from starlette.responses import Response

from corral.serve.console.sessions import COOKIE, Session
from corral.serve.errors import RequestError


async def form_values(request: Request) -> dict[str, str]:
    """The fields of a form; files are not taken.

    Raises:
        RequestError: 400 for something that is no form.
    """
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise RequestError(415, "Expected a form.", code="unsupported_media_type")
    try:
        return dict(parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=50))
    except (UnicodeDecodeError, ValueError):
        raise RequestError(400, "Not a form.", code="invalid_value") from None


def require_same_origin(request: Request) -> None:
    """Refuse what a browser says another site sent."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise RequestError(403, "Forms are taken from this site only.", code="csrf")


def with_cookie(response: Response, session: Session, request: Request, *, fresh: bool = False) -> Response:
    """The response with the session's cookie, where the browser does not have it yet."""
    if fresh or COOKIE not in request.cookies or request.cookies[COOKIE] != session.id:
        response.set_cookie(
            COOKIE, session.id, path="/console", httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )
    return response
