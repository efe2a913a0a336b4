"""Who may ask what: keys, scopes, rates, sizes, names of an open server."""

from __future__ import annotations

from typing import Any

import pytest

from corral.core.errors import ConfigError, NotFoundError
from corral.serve.app import create_app
from corral.serve.keys import ApiKey, RateLimiter
from corral.serve.run import require_key_beyond_loopback
from corral.serve.settings import is_loopback

PUBLIC = {"/healthz", "/readyz"}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_once_a_key_exists_every_route_but_the_public_ones_answers_401(start: Any) -> None:
    running = start()
    running.server.keys.create("any")
    routes = {
        (method, route.path.replace("{decision_id}", "x").replace("{tenant}", "x"))
        for route in create_app(running.server).app.routes  # type: ignore[attr-defined]
        for method in getattr(route, "methods", None) or ()
    }
    assert len(routes) > 15
    for method, path in sorted(routes):
        for headers in ({}, bearer("corral_wrong"), {"Authorization": "Basic eDp5"}, {"Cookie": "corral_session=x"}):
            answer = running.client.request(method, path, headers=headers, follow_redirects=False)
            if path in PUBLIC:
                assert answer.status_code in (200, 405), (method, path)
            elif path == "/console/login" and method == "POST":
                assert answer.status_code in (401, 415), path
            else:
                assert answer.status_code == 401, (method, path)
    assert running.client.get("/nowhere").status_code == 401
    assert running.client.post("/console/login", data={"key": "wrong"}).status_code == 401


def test_a_key_may_do_what_its_scopes_say(start: Any) -> None:
    running = start()
    _, secret = running.server.keys.create("moderates", scopes=["moderate"])
    ask = {"json": {"input": "hello"}, "headers": bearer(secret)}
    assert running.client.post("/v1/moderations", **ask).status_code == 200
    assert running.client.get("/v1/models", headers=bearer(secret)).status_code == 200
    chat = {"messages": [{"role": "user", "content": "hello"}]}
    assert running.client.post("/v1/chat/completions", json=chat, headers=bearer(secret)).status_code == 403
    assert running.client.get("/metrics", headers=bearer(secret)).status_code == 403


def test_a_keys_tenant_decides_the_policy(start: Any) -> None:
    running = start(policies={"default": "id: everybody\n", "acme": "id: acme\nprompt: {action: flag}\n"})
    key, secret = running.server.keys.create("a", tenant="acme")
    answer = running.client.post("/v1/moderations", json={"input": "TRIGGER"}, headers=bearer(secret))
    assert answer.json()["corral"]["policy"] == "acme"
    assert answer.json()["corral"]["decisions"][0]["action"] == "flag"
    (row,) = running.rows_of(answer)
    assert (row["tenant"], row["key_id"]) == ("acme", key.id)


def test_a_revoked_key_is_useless_and_opens_nothing(start: Any) -> None:
    running = start()
    key, secret = running.server.keys.create("a")
    running.server.keys.revoke(key.id)
    assert running.client.get("/v1/models", headers=bearer(secret)).status_code == 401
    assert running.client.get("/v1/models").status_code == 401
    with pytest.raises(NotFoundError):
        running.server.keys.revoke(key.id)


def test_secrets_are_not_in_the_database(start: Any) -> None:
    running = start()
    _, secret = running.server.keys.create("a")
    running.server.audit.close()
    files = [path for path in running.server.settings.state.rglob("*") if path.is_file()]
    assert files
    assert all(secret.encode() not in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    "options", [{"name": ""}, {"name": "a\nb"}, {"tenant": "../x"}, {"scopes": ["root"]}, {"scopes": []}]
)
def test_keys_that_cannot_be_are_refused(start: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        start().server.keys.create(**{"name": "a", **options})


def test_rates_are_kept_and_refill() -> None:
    now = [0.0]
    limiter = RateLimiter(lambda: now[0])
    key = ApiKey("k", "k", "t", frozenset(), 60, 0)
    assert [limiter.wait_seconds(key) for _ in range(60)] == [0.0] * 60
    assert limiter.wait_seconds(key) == pytest.approx(1.0)
    now[0] = 0.5
    assert limiter.wait_seconds(key) == pytest.approx(0.5)
    now[0] = 1.01
    assert limiter.wait_seconds(key) == 0.0


def test_too_many_requests_are_429_with_retry_after(start: Any) -> None:
    running = start()
    _, secret = running.server.keys.create("slow", per_minute=2)
    codes = [running.client.get("/v1/models", headers=bearer(secret)).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    assert int(running.client.get("/v1/models", headers=bearer(secret)).headers["retry-after"]) >= 1


def test_large_bodies_are_refused_with_and_without_their_length(start: Any) -> None:
    running = start(limits={"body_bytes": 1000})
    answer = running.moderate("x" * 2000)
    assert answer.status_code == 413
    pieces = (b"x" * 300 for _ in range(10))
    json_type = {"Content-Type": "application/json"}
    assert running.client.post("/v1/moderations", content=pieces, headers=json_type).status_code == 413


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_an_open_server_does_not_go_by_other_names(start: Any, host: str) -> None:
    assert start().client.get("/v1/models", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000", "corral.test"])
def test_an_open_server_goes_by_its_own_names(start: Any, host: str) -> None:
    assert start(hosts=("corral.test",)).client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_beyond_loopback_a_key_must_exist(server_in: Any, tmp_path: Any) -> None:
    server = server_in(tmp_path, host="0.0.0.0")
    with pytest.raises(ConfigError, match="no API key"):
        require_key_beyond_loopback(server)
    server.keys.create("a")
    require_key_beyond_loopback(server)
    server.database.close()


def test_loopback_is_known() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "::1", "localhost", "127.9.9.9"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.1.1", "example.com", ""]))


def test_other_content_types_are_refused_so_that_web_pages_cannot_post(start: Any) -> None:
    text = {"Content-Type": "text/plain"}
    answer = start().client.post("/v1/moderations", content=b'{"input": "x"}', headers=text)
    assert answer.status_code == 415


def test_a_defect_is_500_without_details(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running = start()

    async def broken(*_: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(running.server.moderation, "decide_each", broken)
    running.client._transport.raise_server_exceptions = False
    answer = running.moderate("hello")
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_public_routes_say_no_more_than_they_must(start: Any) -> None:
    running = start()
    assert running.client.get("/healthz").json() == {"status": "ok"}
    assert running.client.get("/readyz").json() == {"status": "ready"}
    running.server.health.health.problems = ("guard `x`: broken",)
    answer = running.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "not ready"})
