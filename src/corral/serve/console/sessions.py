"""Who is logged in: sessions in memory, each with a token against cross-site requests."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Final

from corral.serve.moderation import Caller

COOKIE: Final = "corral_session"
_LIFETIME: Final = 8 * 3600.0
_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Session:
    """One login.

    Attributes:
        id: the cookie's value.
        csrf: goes into every form.
        caller: who logged in.
        expires_at: by the clock of ``Sessions``.
    """

    id: str
    csrf: str
    caller: Caller
    expires_at: float

    def accepts(self, token: str) -> bool:
        """Whether a form came from a page of this session."""
        return hmac.compare_digest(self.csrf.encode(), token.encode("utf-8", "surrogatepass"))


class Sessions:
    """All logins; a restart of the server ends them.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: dict[str, Session] = {}

    def start(self, caller: Caller) -> Session:
        """A new session; the oldest goes when there are too many."""
        session = Session(secrets.token_urlsafe(32), secrets.token_urlsafe(32), caller, self._clock() + _LIFETIME)
        while len(self._sessions) >= _MOST:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[session.id] = session
        return session

    def find(self, cookie_header: str) -> Session | None:
        """The session that a Cookie header names."""
        try:
            cookie = SimpleCookie(cookie_header).get(COOKIE)
        except CookieError:
            return None
        session = self._sessions.get(cookie.value) if cookie is not None else None
        if session is not None and session.expires_at < self._clock():
            self.end(session)
            return None
        return session

    def end(self, session: Session) -> None:
        """Log out."""
        self._sessions.pop(session.id, None)
