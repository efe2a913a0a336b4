"""DOOR's rows: one harmful start for both sides, and targets that are only what is to be learnt or unlearnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corral.data.examples import PreferenceExample, PromptCompletionExample
from corral.data.messages import Conversation
from corral.train.derta.rows import NO_ROOM, Example
from corral.train.door.rows import KINDS, build_door_rows, draw_start
from corral.train.door.settings import DoorConfig, HarmfulStartConfig
from corral.train.fine_tuning import load_chat

TRIPLE = PreferenceExample(Conversation.user("Mix it."), chosen="S no.", rejected="Take a b then c")
HELP = PromptCompletionExample(Conversation.user("Is it?"), "yes")


def numbered(*examples: Example) -> list[tuple[str, Example]]:
    return [(f"file:{i}", each) for i, each in enumerate(examples, start=1)]


def built(base: Path, *examples: Example, **changes: object):
    chat = load_chat(str(base))
    return chat, build_door_rows(numbered(*examples), chat, DoorConfig.model_validate({"max_tokens": 140, **changes}))


def test_both_sides_follow_the_same_harmful_start(tiny_base: Path) -> None:
    chat, found = built(tiny_base, TRIPLE, HELP, start={"p_zero": 0.0})
    refuse, unlearn, helpful = found.rows
    assert [row.kind for row in found.rows] == ["refuse", "unlearn", "help"]
    prompt, end = chat.encode_prompt(TRIPLE.prompt), [chat.tokenizer.eos_token_id]
    start = chat.backend.decode(unlearn.read_ids[len(prompt) :])
    assert start
    assert TRIPLE.rejected.startswith(start)
    assert chat.backend.decode(refuse.read_ids[len(prompt) :]).rstrip() == start.rstrip()
    assert refuse.target_ids[-1:] == unlearn.target_ids[-1:] == helpful.target_ids[-1:] == end
    assert start + chat.backend.decode(unlearn.target_ids[:-1]) == TRIPLE.rejected
    assert chat.backend.decode(refuse.target_ids[:-1]).lstrip() == TRIPLE.chosen
    assert found.used == (TRIPLE,)


def test_without_a_start_the_sides_are_whole_answers(tiny_base: Path) -> None:
    chat, found = built(tiny_base, TRIPLE, start={"p_zero": 1.0})
    prompt = chat.encode_prompt(TRIPLE.prompt)
    for row, text in zip(found.rows, (TRIPLE.chosen, TRIPLE.rejected), strict=True):
        assert row.read_ids == prompt
        assert row.target_ids[:-1] == chat.encode_text(text)
        assert row.labels == [-100] * len(prompt) + row.target_ids


def test_starts_are_even_and_leave_something_to_unlearn() -> None:
    # 4,000 draws: each of 1 to 5 has the expectation 400, none 2,000; a fifth off would be beyond four deviations.
    chance = np.random.default_rng(0)
    drawn = [draw_start(6, HarmfulStartConfig(), chance) for _ in range(4000)]
    counts = np.bincount(drawn, minlength=7)
    assert counts[6] == 0
    assert abs(counts[0] - 2000) < 130
    assert all(abs(count - 400) < 80 for count in counts[1:6])
    assert draw_start(1, HarmfulStartConfig(p_zero=0.0), chance) == 0
    assert max(draw_start(500, HarmfulStartConfig(p_zero=0.0), chance) for _ in range(2000)) == 100


def test_a_row_without_room_is_dropped_and_counted(tiny_base: Path) -> None:
    chat, whole = built(tiny_base, TRIPLE)
    room = len(chat.encode_prompt(TRIPLE.prompt))
    _, found = built(tiny_base, TRIPLE, max_tokens=room)
    assert not found.rows
    assert not found.used
    assert dict(found.dropped) == {NO_ROOM: 2}
    _, cut = built(tiny_base, TRIPLE, max_tokens=room + 2, start={"p_zero": 1.0})
    assert [len(row.target_ids) for row in cut.rows] == [2, 2]
    account = whole.account()
    assert account["rows"] == {"help": 0, "refuse": 1, "unlearn": 1}
    assert list(account["rows"]) == list(KINDS)


def test_an_unusable_example_is_named_and_can_be_set_aside(tiny_base: Path) -> None:
    chat = load_chat(str(tiny_base))
    same = PreferenceExample(Conversation.user("Mix it."), chosen="no", rejected=" no ")
    told: list[str] = []
    found = build_door_rows(
        numbered(same, TRIPLE), chat, DoorConfig(), on_reject=lambda where, error: told.append(f"{where} {error}")
    )
    assert found.used == (TRIPLE,)
    assert told[0].startswith("file:1 ")
    with pytest.raises(Exception, match="the same") as caught:
        build_door_rows(numbered(same), chat, DoorConfig())
    assert caught.value.where == "file:1"
