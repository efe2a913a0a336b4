"""Rendering pages: every value escaped, style and script inline under a nonce, nothing from elsewhere."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import HTMLResponse

from corral.serve.console.sessions import Session

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER: Final = files(__package__) / "templates"
_HEADERS: Final = {
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def page(name: str, session: Session, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, or a part of one, for someone who is logged in."""
    return _rendered(name, status, session=session, **values)


def login_page(*, status: int = 200, problem: str = "") -> HTMLResponse:
    """The form that asks for a key."""
    return _rendered("login.html", status, session=None, problem=problem)


def _rendered(name: str, status: int, **values: Any) -> HTMLResponse:
    nonce = secrets.token_urlsafe(16)
    text = (
        _environment()
        .get_template(name)
        .render(nonce=nonce, style=_text("console.css"), script=_text("console.js"), **values)
    )
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(text.encode("utf-8", "replace"), status, headers=_HEADERS | {"Content-Security-Policy": policy})


@cache
def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import DictLoader, Environment, StrictUndefined

    templates = {
        entry.name: entry.read_text(encoding="utf-8") for entry in _FOLDER.iterdir() if entry.name.endswith(".html")
    }
    environment = Environment(
        loader=DictLoader(templates), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["moment"] = _moment
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.1f} %"
    environment.filters["ms"] = lambda value: "–" if value is None else f"{value:.0f} ms"
    return environment


def _moment(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
