"""Verdicts as JSON."""

import json

import pytest

from corral.guards.base import Status, Verdict

VERDICTS = [
    Verdict("prompt", "one", "r1", flagged=True, p_harm=0.9, p_attack=0.2, categories={"t/S1": 0.5}, latency_ms=3.0),
    Verdict("response", "two", "r2", flagged=False, p_harm=0.1, unanswered=("refusal",), windows=3, context_dropped=9),
    Verdict.failed("prompt", "three", "r3", Status.UNPARSEABLE, "no verdict"),
]


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_verdict_comes_back_from_its_json(verdict):
    row = json.loads(json.dumps(verdict.to_json()))
    assert Verdict.from_json({"key": "of a journal", **row}) == verdict


def test_a_row_of_an_earlier_version_gives_what_it_has():
    row = {"target": "prompt", "guard": "g", "revision": "r", "status": "ok", "flagged": True, "p_harm": 0.7}
    assert Verdict.from_json(row) == Verdict("prompt", "g", "r", flagged=True, p_harm=0.7)
