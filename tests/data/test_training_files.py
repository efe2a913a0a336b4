"""Training rows of a user's file: TRL's columns, and errors that name line and column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import DataError, NotFoundError
from corral.data.examples import PreferenceExample, PromptCompletionExample
from corral.data.messages import Conversation
from corral.data.readers import RejectedRow
from corral.data.training_files import read_training_rows

BOTH = ("completion", "preference")


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def test_rows_of_both_forms_are_read_in_order_with_their_places(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"prompt": "a", "chosen": "b", "rejected": "c", "other": 1},
        {"prompt": [{"role": "user", "content": "d"}], "completion": [{"role": "assistant", "content": "e"}]},
        {"messages": [{"role": "user", "content": "f"}, {"role": "assistant", "content": "g"}]},
        {"kind": "triple", "prompt": "h", "chosen": "i", "rejected": "j"},
    )
    assert list(read_training_rows(path, BOTH)) == [
        (f"{path}:1", PreferenceExample(Conversation.user("a"), "b", "c")),
        (f"{path}:2", PromptCompletionExample(Conversation.user("d"), "e")),
        (f"{path}:3", PromptCompletionExample(Conversation.user("f"), "g")),
        (f"{path}:4", PreferenceExample(Conversation.user("h"), "i", "j")),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, "rejected: the row has none"),
        ({"kind": "tripel", "prompt": "a", "chosen": "b", "rejected": "c"}, "unknown kind `tripel`"),
        ({"kind": ["x"], "prompt": "a", "chosen": "b", "rejected": "c"}, "kind: expected text, not list"),
        ({"prompt": "a", "completion": "b", "complete": "no"}, "complete: expected true or false"),
        ({"prompt": "a"}, "neither `completion`"),
        ({"prompt": "", "completion": "b"}, "prompt: is empty"),
        ({"completion": "b", "prompt": 3}, "prompt"),
        ({"prompt": "a", "completion": [{"role": "user", "content": "b"}]}, "one message of the assistant"),
        ({"messages": [{"role": "user", "content": "f"}]}, "does not end with an answer"),
        ("{not json", "not JSON"),
    ],
)
def test_a_malformed_row_is_named_by_its_line_or_set_aside(tmp_path: Path, row: Any, message: str) -> None:
    path = written(tmp_path, {"prompt": "a", "completion": "b"}, row, {"prompt": "c", "completion": "d"})
    with pytest.raises(DataError, match="--keep-going") as caught:
        list(read_training_rows(path, BOTH))
    assert caught.value.where == f"{path}:2"
    assert message in caught.value.message
    aside: list[RejectedRow] = []
    assert len(list(read_training_rows(path, BOTH, on_reject=aside.append))) == 2
    assert [each.line for each in aside] == [2]


def test_an_answer_that_was_cut_off_says_so(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"prompt": "a", "chosen": "b", "rejected": "c", "chosen_complete": True, "rejected_complete": False},
        {"prompt": "d", "completion": "e", "complete": False},
    )
    assert [example for _, example in read_training_rows(path, BOTH)] == [
        PreferenceExample(Conversation.user("a"), "b", "c", rejected_complete=False),
        PromptCompletionExample(Conversation.user("d"), "e", complete=False),
    ]


def test_a_form_that_is_not_trained_on_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "a", "completion": "b"})
    with pytest.raises(DataError, match="preference rows are trained on here"):
        list(read_training_rows(path, ("preference",)))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        list(read_training_rows(tmp_path / "none.jsonl", BOTH))
