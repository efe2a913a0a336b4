"""The console's pages: logging in, searching, reviewing, editing policies, trying texts, and what is refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

PAGES = ("", "/live", "/decisions", "/review", "/policies", "/policies/default", "/playground")


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None
    return found[1]


@pytest.fixture
def running(start: Any) -> Any:
    return start(policies={"default": "id: everybody\ncontent: full\n"})


def test_every_page_shows_under_a_strict_content_security_policy(running: Any) -> None:
    running.moderate(["hello", "TRIGGER"])
    for path in PAGES:
        answer = running.client.get(f"/console{path}")
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        nonce = re.search(r"script-src 'nonce-([^']+)'", policy)
        assert nonce is not None
        assert not re.search(r"<(script|style)(?! nonce=\"" + re.escape(nonce[1]) + ")", answer.text), path
        assert not re.search(r"\s(on\w+|style)=", re.sub(r"<(style|script).*?</\1>", "", answer.text, flags=re.S)), path
        assert "http://" not in answer.text
        assert answer.headers["cache-control"] == "no-store"


def test_with_a_key_the_console_asks_for_it_and_lets_reviewers_in(running: Any) -> None:
    _, reader = running.server.keys.create("ann", scopes=["review"])
    _, chatter = running.server.keys.create("bot", scopes=["chat"])
    client = running.client
    refused = client.get("/console/decisions")
    assert refused.status_code == 401
    assert 'name="key"' in refused.text
    assert client.post("/console/login", data={"key": "wrong"}).status_code == 401
    assert client.post("/console/login", data={"key": chatter}).status_code == 401
    answer = client.post("/console/login", data={"key": reader}, follow_redirects=False)
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    page = client.get("/console")
    assert page.status_code == 200
    assert "ann" in page.text
    # A reviewer reads policies and does not change them.
    editor = client.get("/console/policies/default")
    saved = client.post("/console/policies/default", data={"csrf": csrf(editor.text), "text": "id: x", "do": "save"})
    assert saved.status_code == 403
    client.post("/console/logout", data={"csrf": csrf(page.text)})
    assert client.get("/console").status_code == 401


def test_a_revoked_key_ends_its_sessions(running: Any) -> None:
    key, secret = running.server.keys.create("ann", scopes=["admin"])
    running.client.post("/console/login", data={"key": secret})
    assert running.client.get("/console").status_code == 200
    running.server.keys.revoke(key.id)
    assert running.client.get("/console").status_code == 401


@pytest.mark.parametrize("path", ["/decisions/x", "/policies/default", "/playground", "/logout"])
def test_forms_from_elsewhere_are_refused(running: Any, path: str) -> None:
    client = running.client
    token = csrf(client.get("/console").text)
    assert client.post(f"/console{path}", data={"text": "id: x"}).status_code == 403
    assert client.post(f"/console{path}", data={"csrf": "wrong"}).status_code == 403
    cross = client.post(f"/console{path}", data={"csrf": token}, headers={"Sec-Fetch-Site": "cross-site"})
    assert cross.status_code == 403
    assert client.post(f"/console{path}", json={"csrf": token}).status_code == 415


def test_decisions_are_found_by_what_they_are(running: Any) -> None:
    running.moderate(["hello there my friend", "a TRIGGER", "say 'raise' <b>bold</b>"])
    client = running.client

    def found(**query: str) -> int:
        return len(re.findall(r'href="/console/decisions/\w', client.get("/console/decisions", params=query).text))

    assert found() == 3
    assert found(action="block") == 1
    assert found(category="llama_guard_3/S10") == 1
    assert found(text="a TRIGGER") == 1
    assert found(text="a TRIGGE") == 0
    assert found(language="en") == 1
    assert found(stage="window") == 0
    assert found(tenant="nobody") == 0
    assert client.get("/console/decisions", params={"before": "x"}).status_code == 400


def test_text_from_outside_is_escaped(running: Any) -> None:
    running.moderate("<script>alert(1)</script>")
    (row,) = running.rows()
    page = running.client.get(f"/console/decisions/{row['id']}").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    found = running.client.get("/console/decisions", params={"text": '"><script>alert(1)</script>'}).text
    assert "<script>alert" not in found


def test_a_review_labels_a_decision_and_is_exported_as_training_data(running: Any) -> None:
    client = running.client
    running.moderate(["hello", "a TRIGGER"])
    queue = client.get("/console/review").text
    assert '<pre class="text">a TRIGGER</pre>' in queue  # nobody can label what they do not see
    (waiting,) = re.findall(r'href="/console/decisions/(\w+)"', queue)
    form = {"csrf": csrf(queue), "label": "harmful", "note": "seen", "categories": "llama_guard_3/S10"}
    assert client.post(f"/console/decisions/{waiting}", data={**form, "label": "odd"}).status_code == 400
    assert client.post(f"/console/decisions/{waiting}", data={**form, "categories": "S10"}).status_code == 400
    assert client.post("/console/decisions/unknown", data=form).status_code == 404
    saved = client.post(f"/console/decisions/{waiting}", data={**form, "next": "review"}, follow_redirects=False)
    assert saved.headers["location"] == "/console/review"
    assert "Nothing waits" in client.get("/console/review").text
    assert "seen" in client.get(f"/console/decisions/{waiting}").text
    (label,) = [json.loads(line) for line in client.get("/console/review/labels.jsonl").text.splitlines()]
    assert label["messages"] == [{"role": "user", "content": "a TRIGGER"}]
    assert label["harmful"] is True
    assert label["categories"] == {"llama_guard_3/S10": True}


def test_the_queue_says_where_no_text_was_kept(start: Any) -> None:
    running = start()
    running.moderate("a TRIGGER")
    queue = running.client.get("/console/review").text
    assert "The text was not kept." in queue
    assert "TRIGGER" not in queue


def test_texts_in_the_queue_are_escaped(running: Any) -> None:
    running.moderate("<script>TRIGGER</script>")
    queue = running.client.get("/console/review").text
    assert "&lt;script&gt;TRIGGER" in queue
    assert "<script>TRIGGER" not in queue


def test_a_policy_is_checked_before_it_is_saved_and_applies_at_once(running: Any) -> None:
    client = running.client
    editor = client.get("/console/policies/default")
    assert "content: full" in editor.text
    form = {"csrf": csrf(editor.text), "do": "check", "text": "id: new\nprompt: {action: flag}\n"}
    assert "can be applied" in client.post("/console/policies/default", data=form).text
    assert running.server.policies.of("x").id == "everybody"
    broken = client.post("/console/policies/default", data={**form, "do": "save", "text": "promt: 1"})
    assert broken.status_code == 400
    assert "promt" in broken.text
    assert "In force" in client.post("/console/policies/default", data={**form, "do": "save"}).text
    assert running.moderate("TRIGGER").json()["corral"]["decisions"][0]["action"] == "flag"
    assert "prompt: {action: flag}" in client.get("/console/policies").text
    assert client.post("/console/policies/acme", data={**form, "do": "save"}).status_code == 200
    assert running.server.policies.of("acme").id == "new"


def test_the_playground_judges_and_records(running: Any) -> None:
    client = running.client
    form = {"csrf": csrf(client.get("/console/playground").text), "prompt": "hello", "reply": "a TRIGGER"}
    answer = client.post("/console/playground", data=form)
    assert answer.status_code == 200
    assert "Prompt: " in answer.text
    assert 'class="tag k-block"' in answer.text
    assert [row["route"] for row in running.rows()] == ["/console/playground"] * 2
    assert client.post("/console/playground", data={**form, "prompt": " ", "reply": ""}).status_code == 400


def test_the_overview_counts(running: Any) -> None:
    running.moderate(["hello", "a TRIGGER", "another TRIGGER", "bye"])
    page = running.client.get("/console/live", params={"range": "day"}).text
    assert "<dd>4</dd>" in page
    assert "<dd>50.0 %</dd>" in page
    assert page.count("<svg") == 6
    assert "llama_guard_3/S10 2" in page
    assert running.client.get("/console", params={"range": "odd"}).status_code == 200


@pytest.fixture
def tenants(start: Any) -> Any:
    """A server with two tenants, each with a decision about a text that is kept."""
    texts = {name: f"id: {name}\ncontent: full\n" for name in ("default", "acme", "beta")}
    running = start(policies=texts)
    for tenant in ("acme", "beta"):
        _, key = running.server.keys.create(f"{tenant} app", tenant=tenant)
        answer = running.client.post(
            "/v1/moderations",
            json={"input": f"a TRIGGER of {tenant}"},
            headers={"Authorization": f"Bearer {key}"},
        )
        assert answer.status_code == 200
    return running


def log_in(running: Any, tenant: str, *scopes: str) -> str:
    """A console session of a new key; gives the token for forms."""
    _, key = running.server.keys.create(f"{tenant} person", tenant=tenant, scopes=scopes or ("review", "admin"))
    running.client.cookies.clear()
    assert running.client.post("/console/login", data={"key": key}, follow_redirects=False).status_code == 303
    return csrf(running.client.get("/console/playground").text)


def test_a_tenants_key_sees_its_own_decisions_and_policies_and_no_others(tenants: Any) -> None:
    ids = {row["tenant"]: row["id"] for row in tenants.rows()}
    token = log_in(tenants, "beta")
    client = tenants.client
    for path in ("/decisions", "/review", "/policies", "/playground", "/live", ""):
        assert "acme" not in client.get(f"/console{path}").text, path
    assert ids["beta"] in client.get("/console/decisions").text
    assert ids["acme"] not in client.get("/console/decisions", params={"tenant": "acme"}).text
    assert ids["beta"] in client.get("/console/review").text
    assert client.get(f"/console/decisions/{ids['acme']}").status_code == 404
    assert "of beta" in client.get(f"/console/decisions/{ids['beta']}").text
    assert "<dd>1</dd>" in client.get("/console/live").text
    form = {"csrf": token, "label": "harmless", "note": "", "categories": ""}
    assert client.post(f"/console/decisions/{ids['acme']}", data=form).status_code == 404
    assert all(row["label"] is None for row in tenants.rows())
    for tenant in ("acme", "default"):
        assert client.get(f"/console/policies/{tenant}").status_code == 403
        saved = client.post(f"/console/policies/{tenant}", data={"csrf": token, "do": "save", "text": "id: x\n"})
        assert saved.status_code == 403
    assert tenants.server.policies.of("acme").id == "acme"
    mine = {"csrf": token, "do": "save", "text": "id: mine\ncontent: full\n"}
    assert client.post("/console/policies/beta", data=mine).status_code == 200
    assert tenants.server.policies.of("beta").id == "mine"


def test_labels_are_exported_to_their_own_tenant(tenants: Any) -> None:
    for tenant in ("acme", "beta"):
        (row,) = tenants.rows(tenant=tenant)
        form = {"csrf": log_in(tenants, tenant, "review"), "label": "harmful", "note": "", "categories": ""}
        tenants.client.post(f"/console/decisions/{row['id']}", data=form)
    exported = tenants.client.get("/console/review/labels.jsonl").text
    assert "of beta" in exported
    assert "of acme" not in exported


def test_a_tenant_without_a_policy_of_its_own_sees_the_one_that_it_is_judged_by(tenants: Any) -> None:
    log_in(tenants, "gamma")
    page = tenants.client.get("/console/policies").text
    assert "<td>default " in page
    assert "/console/policies/gamma" in page
    assert "content: full" in tenants.client.get("/console/policies/gamma").text


def test_an_operator_sees_every_tenant(tenants: Any) -> None:
    token = log_in(tenants, "default")
    client = tenants.client
    for path in ("/decisions", "/review", "/policies"):
        page = client.get(f"/console{path}").text
        assert "acme" in page, path
        assert "beta" in page, path
    assert "<dd>2</dd>" in client.get("/console/live").text
    form = {"csrf": token, "do": "save", "text": "id: new\n"}
    assert client.post("/console/policies/acme", data=form).status_code == 200
    assert tenants.server.policies.of("acme").id == "new"


def test_what_is_tried_out_is_recorded_for_who_tried_it(tenants: Any) -> None:
    before = len(tenants.rows())
    token = log_in(tenants, "beta")
    form = {"csrf": token, "prompt": "hello"}
    for tenant in ("acme", "default", "z" * 5000):
        assert tenants.client.post("/console/playground", data={**form, "tenant": tenant}).status_code == 403
    assert len(tenants.rows()) == before
    assert tenants.client.post("/console/playground", data={**form, "tenant": "beta"}).status_code == 200
    token = log_in(tenants, "default")
    assert (
        tenants.client.post("/console/playground", data={"csrf": token, "prompt": "x", "tenant": "none"}).status_code
        == 403
    )
    assert (
        tenants.client.post("/console/playground", data={"csrf": token, "prompt": "x", "tenant": "acme"}).status_code
        == 200
    )
    # An operator tries acme's rules, in its own name.
    newest = tenants.rows()[0]
    assert (newest["tenant"], newest["policy"].split()[0]) == ("default", "acme")


def test_a_page_that_no_row_can_have_is_refused(running: Any) -> None:
    for before in ("-1", str(2**63), "9" * 5000):
        assert running.client.get("/console/decisions", params={"before": before}).status_code == 400
