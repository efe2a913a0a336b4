"""Rows to conversations."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import DataError
from corral.data.conversations import conversation_from_row, conversation_items, conversations_from_rows
from corral.data.messages import Conversation, Message
from corral.data.readers import RejectedRow, Row, read_items


def converted(value: dict[str, Any]) -> Conversation:
    return conversation_from_row(Row(value, "f", 7))


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"messages": MESSAGES}, Conversation((Message.of("system", "Be brief."), Message.of("user", "Hello")))),
        ({"prompt": "Hello"}, Conversation.user("Hello")),
        ({"prompt": "Hello", "response": "Hi"}, Conversation.exchange("Hello", "Hi")),
        ({"prompt": "Hello", "response": None}, Conversation.user("Hello")),
        ({"prompt": "Hello", "response": ""}, Conversation.user("Hello")),
        ({"prompt": "", "response": "Hi"}, Conversation.exchange("", "Hi")),
        ({"prompt": MESSAGES[1:], "response": "Hi"}, Conversation.exchange("Hello", "Hi")),
        ({"text": "Hello"}, Conversation.user("Hello")),
    ],
)
def test_each_shape_of_row_is_read(value: dict[str, Any], expected: Conversation) -> None:
    assert converted(value).messages == expected.messages


def test_messages_win_over_prompt_and_prompt_over_text_and_null_is_absent() -> None:
    value = {"messages": MESSAGES, "prompt": "a", "text": "b"}
    assert converted(value).messages[-1].text == "Hello"
    assert converted(value | {"messages": None}).messages[-1].text == "a"
    assert converted(value | {"messages": None, "prompt": None}).messages[-1].text == "b"


@pytest.mark.parametrize(("given", "expected"), [("x1", "x1"), (12, "12"), (0, "0"), (None, "7")])
def test_the_id_is_the_rows_own_or_else_the_line_number(given: object, expected: str) -> None:
    for content in ({"text": "Hello"}, {"prompt": "Hello"}, {"messages": MESSAGES}):
        assert converted({"id": given, **content}).id == expected
        assert converted(content).id == "7"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "the row has no columns"),
        ({"question": "x", "label": 1}, "the row has `question`, `label`"),
        ({str(n): n for n in range(9)}, "`0`, `1`, `2`, `3`, `4`, `5`, ..."),
        ({"text": ""}, "text: there is no text to judge"),
        ({"prompt": " \n"}, "prompt: there is no text to judge"),
        ({"text": 5}, "text: expected text, got int"),
        ({"prompt": 5}, "prompt: expected a list of messages, got int"),
        ({"prompt": "x", "response": ["y"]}, "response: expected text, got list"),
        ({"text": "x", "id": 1.5}, "id: expected text or a whole number, got float"),
        ({"text": "x", "id": True}, "id: expected text or a whole number, got bool"),
        ({"messages": "x"}, "messages: expected a list of messages, got str"),
        ({"messages": []}, "messages: the list of messages is empty"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "messages[0].role: unknown role `narrator`"),
        ({"messages": [*MESSAGES, {"role": "user"}]}, "messages[2].content: content is missing"),
    ],
)
def test_a_row_without_a_conversation_is_rejected_with_the_field(value: dict[str, Any], reason: str) -> None:
    [item] = conversation_items([Row(value, "f", 3)])
    assert isinstance(item, RejectedRow)
    assert (item.path, item.line) == ("f", 3)
    assert reason in item.reason
    assert json.loads(item.raw) == value


def test_a_row_of_five_megabytes_is_an_ordinary_row() -> None:
    assert len(converted({"text": "word " * 1_000_000}).messages[0].text) == 5_000_000


def test_a_reason_never_repeats_a_long_value() -> None:
    [item] = conversation_items([Row({"messages": [{"role": "x" * 10_000, "content": "y"}]}, "f", 1)])
    assert isinstance(item, RejectedRow)
    assert len(item.reason) < 200


def test_rejects_of_the_reader_and_of_the_rows_stay_in_their_places(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\nbroken\n{"label": 1}\n{"text": "four"}\n', encoding="utf-8")
    found = list(conversation_items(read_items(path)))
    assert [item.id if isinstance(item, Conversation) else item.line for item in found] == ["1", 2, 3, "4"]


def test_rejects_are_handed_over_raised_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    rows = [Row({"text": "one"}, "f", 1), Row({"label": 1}, "f", 2)]
    rejects: list[RejectedRow] = []
    assert [c.id for c in conversations_from_rows(rows, on_reject=rejects.append)] == ["1"]
    assert [reject.where for reject in rejects] == ["f:2"]
    with pytest.raises(DataError, match="none of the columns") as error:
        list(conversations_from_rows(rows, strict=True))
    assert error.value.where == "f:2"
    with caplog.at_level(logging.WARNING):
        list(conversations_from_rows(rows))
    assert "f:2: none of the columns" in caplog.text


def test_messages_nested_in_messages_are_rejected_and_do_not_recurse() -> None:
    value: dict[str, Any] = {"messages": MESSAGES}
    for _ in range(5000):
        value = {"messages": value}
    [item] = conversation_items([Row(value, "f", 1)])
    assert isinstance(item, RejectedRow)
    assert "expected a list of messages, got dict" in item.reason
    assert item.raw == "(nested too deeply to be written)"
