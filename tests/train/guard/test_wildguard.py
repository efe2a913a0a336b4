"""Rows for a WildGuard: every known label is learned once, and nothing is learned from an unknown one."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.guards.wildguard.answers import FIELDS, LINES, parse_answers
from corral.train.guard.prompted_rows import PromptedRow
from corral.train.guard.wildguard import wildguard_rows


def request(text: str, harmful: bool | None, **changes: Any) -> ModerationExample:
    return ModerationExample(Conversation.user(text), "prompt", harmful=harmful, **changes)


def reply(text: str, harmful: bool | None, refusal: bool | None, **changes: Any) -> ModerationExample:
    conversation = Conversation.exchange(text, changes.pop("says", "a reply"))
    return ModerationExample(conversation, "response", harmful=harmful, refusal=refusal, **changes)


def learned(row: PromptedRow) -> dict[str, str]:
    """What is in the loss, line by line: everything between the scored spans is left out."""
    text = "\n".join(row.answer[start:stop].removesuffix("\n") for start, stop in row.scored)
    return dict(line.split(": ") for line in text.split("\n"))


@pytest.mark.parametrize(("asked", "refused", "answered"), list(product([True, False, None], repeat=3)))
def test_known_labels_are_in_the_loss_and_unknown_ones_are_not(
    asked: bool | None, refused: bool | None, answered: bool | None
) -> None:
    formatted = wildguard_rows([request("a", asked), reply("a", answered, refused)])
    expected = {
        line: "yes" if value else "no"
        for line, value in zip(LINES, (asked, refused, answered), strict=True)
        if value is not None
    }
    if not expected:
        assert formatted.rows == []
        return
    (row,) = formatted.rows
    assert learned(row) == expected
    reaches_end = row.scored[-1][1] == len(row.answer)
    assert reaches_end == (answered is not None)


def test_a_whole_answer_parses_to_its_labels() -> None:
    (row,) = wildguard_rows([request("a", True), reply("a", False, True)]).rows
    parsed = parse_answers(row.answer)
    assert (parsed.prompt, parsed.refusal, parsed.response) == ("yes", "yes", "no")
    assert row.scored[0][0] == 0
    assert all(before[1] == after[0] for before, after in zip(row.scored, row.scored[1:], strict=False))


def test_a_request_without_a_reply_answers_not_applicable() -> None:
    (row,) = wildguard_rows([request("a", False)]).rows
    assert learned(row) == {LINES[0]: "no", LINES[1]: "n/a", LINES[2]: "n/a"}
    assert row.scored[-1][1] == len(row.answer)


def test_unknown_lines_before_a_known_one_say_nothing_about_it() -> None:
    """The written words are a coin of the text: as often yes as no on either label."""
    rows = wildguard_rows([reply(f"text {i}", i % 2 == 0, None) for i in range(400)]).rows
    for line in (0, 1):
        for wanted in ("yes", "no"):
            of_label = [row for row in rows if row.answer.endswith(f": {wanted}")]
            written = [row.answer.split("\n")[line].endswith("yes") for row in of_label]
            assert 0.35 < sum(written) / len(written) < 0.65


def test_rows_of_one_conversation_are_merged_and_others_are_not() -> None:
    rows = [
        request("a", True, source="x"),
        reply("a", True, False, source="x", says="one"),
        reply("a", False, True, source="x", says="two"),
        request("a", True, source="y"),
        request("b", False, source="x"),
    ]
    formatted = wildguard_rows(rows)
    assert [learned(row)[LINES[0]] for row in formatted.rows] == ["yes", "yes", "yes", "no"]
    assert formatted.report["merged"] == 1
    assert formatted.report["lines"]["refusal"] == {"no": 1, "yes": 1, "n/a": 2}


def test_requests_labelled_both_ways_are_unknown() -> None:
    rows = [request("a", True), request("a", False), reply("a", True, None)]
    (row,) = wildguard_rows(rows).rows
    assert learned(row) == {LINES[2]: "yes"}


@given(task=st.sampled_from(FIELDS))
def test_a_single_task_learns_its_line_only(task: Any) -> None:
    rows = wildguard_rows([request("a", True), reply("a", False, True), request("b", False)], tasks=(task,)).rows
    line = LINES[FIELDS.index(task)]
    assert [set(learned(row)) for row in rows] == [{line}, {line}]


def test_what_cannot_be_learned_from_is_left_out_and_counted() -> None:
    rows = [
        request("a", None),
        reply("b", True, True, says=" "),
        ModerationExample(Conversation.from_openai([{"role": "assistant", "content": "x"}]), "response", harmful=True),
    ]
    formatted = wildguard_rows(rows, tasks=("prompt",))
    assert formatted.rows == []
    assert formatted.report["left_out"] == {
        "no label of a chosen task": 1,
        "no reply to judge": 1,
        "turns that the prompt cannot show": 1,
    }


@pytest.mark.parametrize("tasks", [(), ("prompts",)])
def test_tasks_that_there_are_not_are_refused(tasks: Any) -> None:
    with pytest.raises(ConfigError, match="task"):
        wildguard_rows([], tasks=tasks)
