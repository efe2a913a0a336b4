"""Rows for a CultureGuard: known labels are learned, unknown ones and unreliable categories are masked."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.guards.cultureguard.answers import parse_answer
from corral.guards.cultureguard.prompts import CategoryList
from corral.train.guard.cultureguard import cultureguard_rows
from corral.train.guard.prompted_rows import PromptedRow

AEGIS = CategoryList.of()
VIOLENCE = {"aegis_2/S1": True}


def request(text: str, harmful: bool | None, **changes: Any) -> ModerationExample:
    return ModerationExample(Conversation.user(text), "prompt", harmful=harmful, source="s", **changes)


def reply(text: str, harmful: bool | None, **changes: Any) -> ModerationExample:
    return ModerationExample(Conversation.exchange(text, "a reply"), "response", harmful=harmful, source="s", **changes)


def rows(*examples: ModerationExample) -> list[PromptedRow]:
    return cultureguard_rows(examples, AEGIS).rows


def learned(row: PromptedRow) -> list[str]:
    return [row.answer[start:stop] for start, stop in row.scored]


def test_a_safe_request_is_a_whole_answer() -> None:
    (row,) = rows(request("a", False))
    assert row.answer == '{"User Safety": "safe"}'
    assert row.scored[-1][1] == len(row.answer)  # so the end of the turn is learned too


def test_known_categories_are_learned_in_the_order_of_the_list() -> None:
    (row,) = rows(request("a", True, categories={"aegis_2/S11": True, **VIOLENCE, "aegis_2/S2": False}))
    assert row.answer == '{"User Safety": "unsafe", "Safety Categories": "Violence, Threat"}'
    assert "".join(learned(row)) == row.answer


@pytest.mark.parametrize("categories", [{}, {"llama_guard_3/S1": True}, {"aegis_2/S1": False}])
def test_where_categories_are_not_known_only_their_key_is_learned(categories: dict[str, bool]) -> None:
    (row,) = rows(request("a", True, categories=categories))
    assert "".join(learned(row)) == '{"User Safety": "unsafe", "Safety Categories": "'
    assert row.scored[-1][1] < len(row.answer)


@pytest.mark.parametrize(("asked", "answered"), list(product([True, False, None], repeat=2)))
def test_unknown_verdicts_are_masked(asked: bool | None, answered: bool | None) -> None:
    examples = [request("a", asked, categories=VIOLENCE), reply("a", answered, categories=VIOLENCE)]
    formatted = cultureguard_rows(examples, AEGIS)
    if asked is None and answered is None:
        assert formatted.report["left_out"] == {"no label": 1}
        return
    (row,) = formatted.rows
    text = "".join(learned(row))
    for key, label in (("User Safety", asked), ("Response Safety", answered)):
        word = "unsafe" if label else "safe"
        assert (f'"{key}": "{word}"' in text) is (label is not None)
    assert ("Violence" in text) is (None not in (asked, answered) and bool(asked or answered))
    said = parse_answer(row.answer, AEGIS.resolve, reply=True).said
    for target, label in (("prompt", asked), ("response", answered)):
        assert label is None or said[target].unsafe is label  # type: ignore[index]


def test_categories_of_request_and_reply_are_one_list() -> None:
    (row,) = rows(request("a", True, categories={"aegis_2/S11": True}), reply("a", True, categories=VIOLENCE))
    assert row.answer.endswith('"Safety Categories": "Violence, Threat"}')
    (row,) = rows(request("a", True, categories=VIOLENCE), reply("a", True))
    assert "Violence" not in "".join(learned(row))


def test_rows_of_one_list_share_their_prefix() -> None:
    assert len({row.policy for row in rows(request("a", False), request("b", True))}) == 1


def test_the_report_counts_what_was_done() -> None:
    formatted = cultureguard_rows(
        [request("a", True, categories=VIOLENCE), request("b", True), request("c", False), reply("c", None)], AEGIS
    )
    report = formatted.report
    assert (report["read"], report["merged"], report["written"]) == (4, 1, 3)
    assert report["categories"] == {"learned": 1, "masked": 1}
    assert report["verdicts"] == {"prompt": {"unsafe": 2, "safe": 1}, "response": {"unknown": 1}}
    assert report["named"] == {"Violence": 1}
