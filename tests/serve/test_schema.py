"""Requests made from the server's own OpenAPI description: none is answered with a server's error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from hypothesis import HealthCheck, settings  # noqa: E402
from hypothesis import given as given_data  # noqa: E402

OPERATIONS = [
    ("POST", "/v1/moderations"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", "/metrics"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory, server_in: Any, listening: Any) -> Any:
    folder: Path = tmp_path_factory.mktemp("schema")
    with listening(server_in(folder)) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_every_public_operation_is_described(schema: Any) -> None:
    found = {(operation.ok().method.upper(), operation.ok().path) for operation in schema.get_all_operations()}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_is_answered_with_a_servers_error(schema: Any, method: str, path: str, mode: Any) -> None:
    """Neither one that fits the description nor one that does not."""
    operation = schema[path][method]
    if mode is schemathesis.GenerationMode.NEGATIVE and method == "GET":
        return  # nothing about it can be wrong
    answered: list[int] = []

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given_data(case=operation.as_strategy(mode))
    def each(case: Any) -> None:
        answer = case.call()
        answered.append(answer.status_code)
        assert answer.status_code < 500, answer.text
        case.validate_response(answer, checks=[schemathesis.checks.not_a_server_error])

    each()
    if mode is schemathesis.GenerationMode.NEGATIVE:
        assert 400 in answered
    elif method == "GET":
        assert set(answered) == {200}
