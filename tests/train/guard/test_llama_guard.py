"""Rows for a Llama Guard: targets name the violated categories under the codes of their own prompt."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.guards.llama_guard.grammar import parse_verdict
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.train.guard.augmentation import AugmentationConfig
from corral.train.guard.llama_guard import llama_guard_rows
from corral.train.guard.prompted_rows import PromptedRow

NAMES = ("Apples", "Bricks", "Clouds", "Drums", "Engines", "Forests")
POLICY = PolicyPrompt.of("3", dict.fromkeys(NAMES, ""), detail="names")


def example(i: int, violated: set[int] | None = None, **changes: Any) -> ModerationExample:
    """A row that violates the categories of these numbers (1 to 6)."""
    values: dict[str, Any] = {
        "harmful": bool(violated),
        "categories": {f"custom/S{n}": n in (violated or ()) for n in range(1, 7)},
        "source": "own",
        "id": str(i),
    }
    conversation = Conversation.exchange("a question", f"reply {i}") if i % 3 == 0 else Conversation.user(f"text {i}")
    target = "response" if i % 3 == 0 else "prompt"
    return ModerationExample(conversation, target, **(values | changes))  # type: ignore[arg-type]


def examples(n: int) -> list[ModerationExample]:
    return [example(i, {1 + i % 6, 1 + (i // 2) % 6} if i % 2 else None) for i in range(n)]


def prompt_text(row: PromptedRow) -> str:
    return row.prompt if isinstance(row.prompt, str) else row.prompt.messages[0].text


def prompt_categories(row: PromptedRow) -> list[str]:
    """Names in the prompt's policy; their codes are checked to be 1 to m."""
    entries = re.findall(r"^S(\d+): (\w+)\.$", prompt_text(row), re.MULTILINE)
    assert [int(number) for number, _ in entries] == list(range(1, len(entries) + 1))
    return [name for _, name in entries]


def named(row: PromptedRow) -> set[str]:
    """Names of the categories that the answer gives codes of."""
    shown = prompt_categories(row)
    codes = parse_verdict(row.answer, [f"S{n}" for n in range(1, len(shown) + 1)]).codes
    assert list(codes) == sorted(codes, key=lambda code: int(code[1:]))
    return {shown[int(code[1:]) - 1] for code in codes}


@given(
    violated=st.sets(st.integers(1, 6), min_size=1),
    seed=st.integers(0, 1000),
    share=st.sampled_from([1, 3]),
    mode=st.sampled_from(["paper", "formatter", "none"]),
    flip=st.sampled_from([0.0, 0.25, 1.0]),
)
def test_answers_name_the_violated_categories_that_the_prompt_has(
    violated: set[int], seed: int, share: int, mode: str, flip: float
) -> None:
    config = AugmentationConfig.model_validate(
        {"mode": mode, "flip_probability": flip, "share_policies": share, "flip_copies": True}
    )
    rows = [example(i, violated if i % 2 else None) for i in range(6)]
    formatted = llama_guard_rows(rows, POLICY, config, seed=seed)
    for row in formatted.rows:
        shown = set(prompt_categories(row))
        expected = {NAMES[n - 1] for n in violated} & shown
        is_unsafe_row = re.search(r"(?:text|reply) [135]\b", prompt_text(row)) is not None
        assert named(row) == (expected if is_unsafe_row else set())
        # Violated categories stay together, or go together and leave a safe row.
        if is_unsafe_row:
            assert len(expected) in {0, len(violated)}
            assert (row.answer == "safe") == (not expected)
        assert row.scored == ((0, len(row.answer)),)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    config = AugmentationConfig()
    rows = examples(30)
    assert llama_guard_rows(rows, POLICY, config, seed=1) == llama_guard_rows(rows, POLICY, config, seed=1)
    assert llama_guard_rows(rows, POLICY, config, seed=1).rows != llama_guard_rows(rows, POLICY, config, seed=2).rows


def test_a_row_is_varied_alike_whatever_stands_beside_it() -> None:
    rows = examples(10)
    among = llama_guard_rows(rows, POLICY, AugmentationConfig(), seed=0).rows
    assert llama_guard_rows(rows[4:], POLICY, AugmentationConfig(), seed=0).rows == among[4:]


def test_rows_of_one_key_begin_alike_up_to_the_conversation() -> None:
    config = AugmentationConfig(share_policies=8)
    formatted = llama_guard_rows(examples(120), POLICY, config, seed=0)
    beginnings: dict[str, set[str]] = {}
    for row in formatted.rows:
        beginnings.setdefault(row.policy, set()).add(prompt_text(row).partition("<BEGIN CONVERSATION>")[0])
    assert all(len(texts) == 1 for texts in beginnings.values())
    assert len(beginnings) == formatted.report["policies"]
    assert len(beginnings) < 60


def test_sharing_keeps_each_row_kept_or_flipped_as_it_was_drawn_alone() -> None:
    rows = examples(200)
    alone = llama_guard_rows(rows, POLICY, AugmentationConfig(), seed=0)
    shared = llama_guard_rows(rows, POLICY, AugmentationConfig(share_policies=8), seed=0)
    assert [row.answer == "safe" for row in alone.rows] == [row.answer == "safe" for row in shared.rows]
    sizes = [[len(prompt_categories(row)) for row in each.rows] for each in (alone, shared)]
    assert sizes[0] == sizes[1]


def test_harm_of_unknown_category_is_learned_as_one_word_under_the_whole_policy() -> None:
    rows = [example(i, categories={}, harmful=True) for i in range(8)]
    formatted = llama_guard_rows(rows, POLICY, AugmentationConfig(flip_probability=1.0), seed=0)
    assert {(row.answer, row.scored) for row in formatted.rows} == {("unsafe\n", ((0, 6),))}
    assert all(set(prompt_categories(row)) == set(NAMES) for row in formatted.rows)
    assert len({tuple(prompt_categories(row)) for row in formatted.rows}) > 1
    assert formatted.report["category_unknown"] == 8


def test_what_cannot_be_learned_from_is_left_out_and_counted() -> None:
    narrow = POLICY.with_categories(["S1", "S2"])
    rows = [
        example(1, harmful=None),
        example(2, {3}),
        example(4, {1}, harmful=False),
        ModerationExample(Conversation.user("x"), "response", harmful=True),
        ModerationExample(Conversation.from_openai([{"role": "assistant", "content": "x"}]), "response", harmful=True),
        example(5, {1}),
    ]
    formatted = llama_guard_rows(rows, narrow, AugmentationConfig(), seed=0)
    assert len(formatted.rows) == 1
    assert formatted.report["left_out"] == {
        "no label": 1,
        "violates only what the policy does not have": 1,
        "safe but violated": 1,
        "no response to judge": 1,
        "turns that the prompt cannot show": 1,
    }


def test_the_report_counts_categories_before_and_after() -> None:
    rows = [example(1, {1}), example(2, {1, 2}), example(4)]
    report = llama_guard_rows(rows, POLICY, AugmentationConfig(flip_probability=1.0), seed=0).report
    assert report["categories_before"] == {"S1": 2, "S2": 1, "S3": 0, "S4": 0, "S5": 0, "S6": 0}
    assert report["categories_after"] == dict.fromkeys(("S1", "S2", "S3", "S4", "S5", "S6"), 0)
    assert report["labels"] == {"before: unsafe": 2, "before: safe": 1, "after: safe": 3}
    assert (report["read"], report["written"], report["flipped"]) == (3, 3, 2)
    assert sum(report["categories_in_prompts"].values()) > 0


def test_categories_of_another_taxonomy_are_unknown_ones() -> None:
    rows = [example(1, harmful=True, categories={"llama_guard_3/S1": True})]
    assert llama_guard_rows(rows, POLICY, AugmentationConfig(), seed=0).rows[0].answer == "unsafe\n"


@pytest.mark.parametrize("frame", ["chat", "llama_3"])
def test_prompts_are_those_that_the_guard_asks(frame: Any) -> None:
    (row,) = llama_guard_rows([example(1)], POLICY, AugmentationConfig(mode="none"), seed=0, frame=frame).rows
    text = prompt_text(row)
    assert "User: text 1" in text
    assert text.startswith("<|begin_of_text|>") == (frame == "llama_3")


def test_roles_do_not_share_a_policy() -> None:
    rows = llama_guard_rows(examples(12), POLICY, AugmentationConfig(mode="none"), seed=0).rows
    assert Counter(row.policy.partition("/")[0] for row in rows) == {"User": 8, "Agent": 4}
    assert len({row.policy for row in rows}) == 2
