"""The console's routes. Reading needs the scope ``review`` or ``admin``; changing policies needs ``admin``."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from starlette.responses import RedirectResponse, Response

from corral.core.errors import ConfigError, DataError, NotFoundError, PolicyError
from corral.data.messages import Conversation, Message
from corral.data.taxonomy import load_taxonomy, qualified
from corral.serve.audit.queries import Search, find_decision, find_decisions
from corral.serve.audit.records import policy_history
from corral.serve.audit.reviews import LABELS, labelled_rows, save_review
from corral.serve.audit.statistics import gather
from corral.serve.audit.tables import LARGEST_SEQ
from corral.serve.console.forms import form_values, require_same_origin, with_cookie
from corral.serve.console.overview import ACTIONS, RANGES, overview_values
from corral.serve.console.pages import login_page, page
from corral.serve.console.sessions import COOKIE, Session
from corral.serve.errors import RequestError
from corral.serve.moderation import Caller
from corral.serve.moderations import decision_json
from corral.serve.server import Server

_PAGE_ROWS: Final = 50
_Answer = Callable[..., Awaitable[Response]]
_READERS: Final = frozenset({"review", "admin"})
_PLAYGROUND: Final = "/console/playground"


def add_console(routes: FastAPI, server: Server) -> None:
    """Add the routes under ``/console``."""
    pages = _Console(server)
    shown: dict[str, _Answer] = {
        "": pages.overview,
        "/live": pages.live,
        "/decisions": pages.decisions,
        "/decisions/{decision_id}": pages.decision,
        "/review": pages.review,
        "/review/labels.jsonl": pages.labels,
        "/policies": pages.policies,
        "/policies/{tenant}": pages.policy,
        "/playground": pages.playground,
        "/login": pages.login_form,
    }
    sent: dict[str, _Answer] = {
        "/login": pages.login,
        "/logout": pages.logout,
        "/decisions/{decision_id}": pages.save_review,
        "/policies/{tenant}": pages.save_policy,
        "/playground": pages.try_out,
    }
    for method, answers in (("GET", shown), ("POST", sent)):
        for path, answer in answers.items():
            routes.add_api_route(f"/console{path}", answer, methods=[method], include_in_schema=False)


class _Console:
    """Answers of the console; each method is a route."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def overview(self, request: Request) -> Response:
        """Volume, block rate, latency, errors, categories and languages."""
        return await self._overview(request, "overview.html")

    async def live(self, request: Request) -> Response:
        """The part of the overview that the script brings up to date."""
        return await self._overview(request, "live.html")

    async def decisions(self, request: Request) -> Response:
        """Search."""
        session = self._session(request)
        asked = {name: value.strip() for name, value in request.query_params.items() if value.strip()}
        try:
            search = self._search(asked, session.caller)
        except ValueError:
            raise RequestError(400, "Not a page of the search.", code="invalid_value") from None
        rows = await asyncio.to_thread(find_decisions, self._server.database, search, limit=_PAGE_ROWS)
        older = rows[-1]["seq"] if len(rows) == _PAGE_ROWS else None
        shown = page("decisions.html", session, rows=rows, asked=asked, actions=ACTIONS, older=older)
        return with_cookie(shown, session, request)

    async def decision(self, request: Request, decision_id: str) -> Response:
        """One decision."""
        return await self._decision_page(request, decision_id)

    async def save_review(self, request: Request, decision_id: str) -> Response:
        """A person's label and note."""
        session, form = await self._form(request)
        codes = [code for code in form.get("categories", "").replace(",", " ").split() if code]
        try:
            await asyncio.to_thread(
                save_review,
                self._server.database,
                decision_id,
                label=form.get("label", ""),
                categories=codes,
                note=form.get("note", ""),
                reviewer=session.caller.name or "open server",
                tenant=session.caller.sees,
            )
        except (ConfigError, NotFoundError, DataError) as error:
            return await self._decision_page(request, decision_id, problem=str(error), status=400)
        back = "/console/review" if form.get("next") == "review" else f"/console/decisions/{decision_id}"
        return RedirectResponse(back, 303)

    async def review(self, request: Request) -> Response:
        """What waits for a person."""
        session = self._session(request)
        waiting = ("flag", "undecided", "block")
        search = Search(unreviewed=True, actions=waiting, tenant=session.caller.sees)
        rows = await asyncio.to_thread(find_decisions, self._server.database, search, limit=_PAGE_ROWS)
        waiting_rows = [row | {"messages": _kept_messages(row)} for row in rows]
        shown = page("review.html", session, rows=waiting_rows, labels=LABELS)
        return with_cookie(shown, session, request)

    async def labels(self, request: Request) -> Response:
        """The labels as training data."""
        tenant = self._session(request).caller.sees
        rows = await asyncio.to_thread(lambda: list(labelled_rows(self._server.database, tenant=tenant)))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        named = {"Content-Disposition": 'attachment; filename="labels.jsonl"'}
        return Response(text, media_type="application/jsonl", headers=named)

    async def policies(self, request: Request) -> Response:
        """Which policies are in force."""
        session = self._session(request)
        store, tenant = self._server.policies, session.caller.sees
        history = await asyncio.to_thread(policy_history, self._server.database, tenant=tenant)
        shown = page(
            "policies.html",
            session,
            loaded=store.loaded() if tenant is None else [store.entry(tenant)],
            tenant=tenant,
            problems=self._policy_problems(session.caller),
            editable=store.editable,
            history=history,
        )
        return with_cookie(shown, session, request)

    async def policy(self, request: Request, tenant: str) -> Response:
        """The editor."""
        self._require_tenant(request, tenant)
        entry = self._server.policies.entry(tenant)
        return self._editor(request, tenant, entry.text or f"id: {tenant}\n")

    async def save_policy(self, request: Request, tenant: str) -> Response:
        """Check a policy, and put it in force."""
        _session, form = await self._form(request)
        self._require_tenant(request, tenant)
        text = form.get("text", "").replace("\r\n", "\n")
        try:
            if form.get("do") == "check":
                await asyncio.to_thread(self._server.policies.check, text, where="policy")
                return self._editor(request, tenant, text, said="This policy can be applied.")
            await asyncio.to_thread(self._server.policies.save, tenant, text)
        except PolicyError as error:
            return self._editor(request, tenant, text, problem=str(error), status=400)
        except OSError as error:
            return self._editor(request, tenant, text, problem=f"Cannot be written: {error.strerror}", status=500)
        await self._server.record_policies()
        return self._editor(request, tenant, text, said="In force.")

    async def playground(self, request: Request) -> Response:
        """A form to try texts."""
        session = self._session(request)
        return with_cookie(self._playground(session, {}, None), session, request)

    async def try_out(self, request: Request) -> Response:
        """Judge what was typed; recorded like any other decision."""
        session, form = await self._form(request)
        prompt, reply = form.get("prompt", ""), form.get("reply", "")
        tenant = form.get("tenant") or session.caller.tenant
        if tenant not in self._tenants(session.caller):
            raise _not_yours()
        if not prompt.strip() and not reply.strip():
            return self._playground(session, form, None, problem="There is nothing to judge.", status=400)
        turns = [Message.of("user", prompt)] if prompt.strip() else []
        asked = [(Conversation(tuple(turns)), "prompt")] if turns else []
        if reply.strip():
            asked.append((Conversation((*turns, Message.of("assistant", reply))), "response"))
        # The rows are the caller's, whoever's policy is tried out: nobody asks in another's name.
        question = self._server.moderation.question(
            session.caller, request.state.request_id, _PLAYGROUND, policy_of=tenant
        )
        groups = [[conversation] for conversation, _ in asked]
        outcomes = await self._server.moderation.decide_each(question, groups, "input")
        found = [(stage, decision_json(outcome)) for (_, stage), outcome in zip(asked, outcomes, strict=True)]
        return self._playground(session, form, found)

    async def login_form(self, request: Request) -> Response:
        """Where to log in."""
        return RedirectResponse("/console", 303)

    async def login(self, request: Request) -> Response:
        """A key against a session."""
        form = await form_values(request)
        require_same_origin(request)
        key = self._server.keys.find(form.get("key", "").strip())
        if key is None:
            return login_page(status=401, problem="This is not a valid key.")
        if not key.scopes & _READERS:
            return login_page(status=401, problem="This key has neither the scope review nor admin.")
        session = self._server.sessions.start(Caller(key.tenant, key.id, key.name, key.scopes))
        return with_cookie(RedirectResponse("/console", 303), session, request, fresh=True)

    async def logout(self, request: Request) -> Response:
        """End the session."""
        session, _form = await self._form(request)
        self._server.sessions.end(session)
        answer = RedirectResponse("/console", 303)
        answer.delete_cookie(COOKIE, path="/console")
        return answer

    async def _overview(self, request: Request, template: str) -> Response:
        session = self._session(request)
        name = request.query_params.get("range", "hour")
        seconds, stretches = RANGES.get(name, RANGES["hour"])
        until = time.time_ns() // 1000
        since = until - seconds * 1_000_000
        found = await asyncio.to_thread(
            gather,
            self._server.database,
            since_us=since,
            until_us=until,
            buckets=stretches,
            tenant=session.caller.sees,
        )
        values: dict[str, Any] = {
            "range": name if name in RANGES else "hour",
            "ranges": list(RANGES),
            "server": self._state(session.caller),
            **overview_values(found),
        }
        return with_cookie(page(template, session, **values), session, request)

    def _state(self, caller: Caller) -> dict[str, Any]:
        health = self._server.health.health
        return {
            "ready": health.ready,
            "problems": list(health.problems) if caller.sees is None else [],
            "waiting": {name: items for name, (items, _) in self._server.moderation.pool.waiting.items()},
            "policy_problems": self._policy_problems(caller),
            "open": not self._server.keys.required,
        }

    async def _decision_page(
        self, request: Request, decision_id: str, *, problem: str = "", status: int = 200
    ) -> Response:
        session = self._session(request)
        row = await asyncio.to_thread(find_decision, self._server.database, decision_id, tenant=session.caller.sees)
        if row is None:
            raise RequestError(404, "There is no such decision.", code="not_found")
        messages = _kept_messages(row)
        taxonomy = load_taxonomy("llama_guard_3")
        codes = [(qualified(taxonomy, c.code), c.name) for c in taxonomy.categories]
        shown = page(
            "decision.html",
            session,
            status=status,
            row=row,
            messages=messages,
            labels=LABELS,
            codes=codes,
            problem=problem,
        )
        return with_cookie(shown, session, request)

    def _editor(
        self, request: Request, tenant: str, text: str, *, problem: str = "", said: str = "", status: int = 200
    ) -> Response:
        session = self._session(request)
        shown = page(
            "policy.html",
            session,
            status=status,
            tenant=tenant,
            text=text,
            problem=problem,
            said=said,
            editable=self._server.policies.editable,
        )
        return with_cookie(shown, session, request)

    def _playground(
        self, session: Session, form: Mapping[str, str], found: Any, *, problem: str = "", status: int = 200
    ) -> Response:
        tenants = self._tenants(session.caller)
        return page("playground.html", session, status=status, form=form, found=found, problem=problem, tenants=tenants)

    def _tenants(self, caller: Caller) -> list[str]:
        """Whose policies the caller may see and try out."""
        return [entry.tenant for entry in self._server.policies.loaded()] if caller.sees is None else [caller.sees]

    def _policy_problems(self, caller: Caller) -> dict[str, str]:
        problems = self._server.policies.problems
        return {tenant: problem for tenant, problem in problems.items() if caller.sees in (None, tenant)}

    def _require_tenant(self, request: Request, tenant: str) -> None:
        """Raise a RequestError, 403, for another tenant than the caller sees."""
        if self._session(request).caller.sees not in (None, tenant):
            raise _not_yours()

    def _session(self, request: Request) -> Session:
        """The session of a request; on an open server everybody gets one.

        Raises:
            RequestError: 403 for a key that may not read decisions.
        """
        found = self._server.sessions.find(request.headers.get("cookie", ""))
        known: Session | None = getattr(request.state, "session", None) or found
        if known is None or (not self._server.keys.required and known.caller.key_id):
            known = self._server.sessions.start(request.state.caller)
        request.state.session = known
        if not known.caller.scopes & _READERS:
            raise RequestError(403, "This key has neither the scope review nor admin.", code="scope_missing")
        return known

    async def _form(self, request: Request) -> tuple[Session, dict[str, str]]:
        """The session and the fields of a form that came from one of its pages.

        Raises:
            RequestError: 403 for a form from elsewhere.
        """
        form = await form_values(request)
        session = self._session(request)
        require_same_origin(request)
        if not session.accepts(form.get("csrf", "")):
            raise RequestError(403, "The page was too old; go back, load it again, and repeat.", code="csrf")
        return session, form

    def _search(self, asked: Mapping[str, str], caller: Caller) -> Search:
        text = asked.get("text")
        hash_of = self._server.moderation.hash_of
        before = asked.get("before")
        return Search(
            tenant=caller.sees or asked.get("tenant"),
            action=asked.get("action"),
            stage=asked.get("stage"),
            language=asked.get("language"),
            request_id=asked.get("request"),
            category=asked.get("category"),
            failed=True if asked.get("failed") else None,
            content_hashes=None if text is None else tuple(hash_of(f"{role}: {text}") for role in _ROLES),
            before_seq=None if before is None else _row_number(before),
        )


def _row_number(text: str) -> int:
    """Raises a ValueError for what is no number of a row."""
    if not 0 <= (number := int(text)) <= LARGEST_SEQ:
        raise ValueError(text)
    return number


def _not_yours() -> RequestError:
    return RequestError(403, "This key is another tenant's.", code="wrong_tenant")


_ROLES: Final = ("user", "assistant", "system", "developer", "tool")


def _kept_messages(row: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """The judged messages of a decision, ``None`` where the policy did not keep them."""
    messages: list[dict[str, str]] | None = None if row["content"] is None else json.loads(row["content"])
    return messages
