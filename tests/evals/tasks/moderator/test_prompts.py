from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import DataError, NotFoundError
from corral.data.messages import Conversation, Message
from corral.evals.tasks.moderator.prompts import load_prompts, plain_request, prompt_conversation, prompt_hash


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def test_a_source_gives_the_prompts_of_the_kind_asked_for(write_source: Callable[..., Path]) -> None:
    rows = [{"id": i, "prompt": f"prompt {i}", "label": "harmful" if i % 2 else "unharmful"} for i in range(6)]
    write_source("aegis_test", aegis_safety_test=rows)
    assert [row.text for row in load_prompts("aegis_test", harmful=True)] == ["prompt 1", "prompt 3", "prompt 5"]
    assert [row.text for row in load_prompts("aegis_test", harmful=False)] == ["prompt 0", "prompt 2", "prompt 4"]


def test_all_rows_of_a_file_are_of_the_kind_it_is_given_for(tmp_path: Path) -> None:
    name = write(tmp_path / "p.jsonl", [{"id": "a", "prompt": "one"}, {"prompt": "Two!"}, {"prompt": "two"}])
    found = load_prompts(name, harmful=True)
    assert [(row.id, row.text, row.harmful, row.source) for row in found] == [
        ("a", "one", True, "p.jsonl"),
        ("2", "Two!", True, "p.jsonl"),
        ("3", "two", True, "p.jsonl"),
    ]
    assert found[1].group == found[2].group != found[0].group


def test_a_reply_in_a_file_is_not_part_of_what_the_target_is_asked(tmp_path: Path) -> None:
    name = write(tmp_path / "p.jsonl", [{"prompt": "one", "response": "an answer"}])
    (row,) = load_prompts(name, harmful=False)
    assert prompt_conversation(row) == Conversation.user("one", id=None)


def test_a_limit_draws_whole_groups_and_always_the_same(tmp_path: Path) -> None:
    name = write(tmp_path / "p.jsonl", [{"prompt": f"prompt {i // 2}", "id": i} for i in range(20)])
    drawn = load_prompts(name, harmful=True, limit=7, seed=1)
    assert len(drawn) == 6
    assert len({row.group for row in drawn}) == 3
    assert drawn == load_prompts(name, harmful=True, limit=7, seed=1)
    assert drawn != load_prompts(name, harmful=True, limit=7, seed=2)


def test_what_is_neither_source_nor_file_is_answered_with_near_names() -> None:
    with pytest.raises(NotFoundError, match="Did you mean `jailbreakbench`"):
        load_prompts("jailbreakbnch", harmful=True)


def test_an_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    name = write(tmp_path / "p.jsonl", [{"id": "a", "prompt": "one"}, {"id": "a", "prompt": "two"}])
    with pytest.raises(DataError, match="`a` occurs twice"):
        load_prompts(name, harmful=True)


def test_a_source_without_prompts_of_the_kind_is_refused(write_source: Callable[..., Path]) -> None:
    write_source("malicious_instruct", malicious_instruct=[{"id": 1, "prompt": "reveal the colour"}])
    with pytest.raises(DataError, match="has no benign prompt"):
        load_prompts("malicious_instruct", harmful=False)


def test_prompts_are_named_by_what_the_target_is_asked(make_example: Any) -> None:
    one, other = make_example("same", harmful=True, id="1"), make_example("same", harmful=False, id="2")
    assert prompt_hash(one) == prompt_hash(other) != prompt_hash(make_example("Same", harmful=True))
    system = Conversation((Message.of("system", "be brief"), *one.conversation.messages))
    assert prompt_hash(replace(one, conversation=system)) != prompt_hash(one)


def test_the_plain_request_is_the_goal_where_there_is_one(make_example: Any) -> None:
    example = make_example("wrapped", harmful=True)
    assert plain_request(example) == "wrapped"
    assert plain_request(replace(example, raw={"goal": " "})) == "wrapped"
    assert plain_request(replace(example, raw={"goal": "plain"})) == "plain"
