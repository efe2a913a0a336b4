import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.guards.base import Status
from corral.guards.json_judge.answers import Outcome, parse_answer

CODES = ("hate", "violence")


def answer(**changes: object) -> str:
    return json.dumps({"flagged": True, "categories": ["hate"], "confidence": 0.8} | changes)


def test_a_whole_answer_is_read() -> None:
    found = parse_answer(answer(), CODES)
    assert (found.outcome, found.categories, found.confidence, found.p_harm) == (Outcome.FLAGGED, ("hate",), 0.8, 0.9)
    assert found.status is Status.OK
    fenced = parse_answer(f"```json\n{answer(flagged=False, categories=[])}\n```\n", CODES)
    assert (fenced.outcome, fenced.p_harm) == (Outcome.NOT_FLAGGED, pytest.approx(0.1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "flagged",
        "[]",
        "true",
        f"Here it is: {answer()}",
        f"{answer()} {answer(flagged=False)}",
        f"{answer()}\nI hope this helps.",
        answer(flagged="true"),
        answer(flagged=1),
        answer(categories="hate"),
        answer(categories=["arson"]),
        answer(categories=[["hate"]]),
        answer(confidence=1.5),
        answer(confidence=True),
        answer(confidence="high"),
        answer(reason="because"),
        '{"flagged": true, "categories": []}',
        '{"flagged": true, "categories": [], "confidence": NaN}',
        '{"flagged": true, "flagged": false, "categories": [], "confidence": 1}',
        "[" * 5000,
        answer(categories=["hate"] * 3000),
    ],
)
def test_anything_else_is_unparseable(text: str) -> None:
    found = parse_answer(text, CODES)
    assert (found.outcome, found.p_harm, found.status) == (Outcome.UNPARSEABLE, None, Status.UNPARSEABLE)


def test_a_refusal_to_judge_is_told_apart_from_an_answer_that_cannot_be_read() -> None:
    assert parse_answer("I'm sorry, but I can't look at this.", CODES).status is Status.REFUSED


@given(st.booleans(), st.floats(0, 1))
def test_a_score_is_one_half_or_more_exactly_when_flagged(flagged: bool, confidence: float) -> None:
    p_harm = parse_answer(answer(flagged=flagged, confidence=confidence), CODES).p_harm
    assert p_harm is not None
    assert 0 <= p_harm <= 1
    assert (p_harm >= 0.5) == flagged


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    assert parse_answer(text, CODES).outcome in Outcome
