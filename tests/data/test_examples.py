"""Records for training and evaluation."""

from __future__ import annotations

import copy
import dataclasses
import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import DataError
from corral.data.examples import (
    ModerationExample,
    PreferenceExample,
    PromptCompletionExample,
    example_from_json,
    example_to_json,
    normalise_prompt,
    prompt_key,
)
from corral.data.messages import Conversation

EXAMPLE = ModerationExample(
    Conversation.exchange("How do I bake bread?", "Mix flour and water."),
    "response",
    harmful=False,
    refusal=None,
    categories={"duoguard/hate": False},
    taxonomy="duoguard",
    language="en",
    source="ours",
    licence="Apache-2.0",
    id="1",
    group="bread",
    split="train",
    eval_overlap=("other",),
    raw={"note": "not compared"},
)


def test_what_is_unknown_is_none_and_not_false() -> None:
    example = ModerationExample(Conversation.user("Hello"), "prompt")
    assert (example.harmful, example.refusal, example.attack) == (None, None, None)
    assert example.categories == {}


def test_the_judged_text_is_the_targets() -> None:
    assert EXAMPLE.text == "Mix flour and water."
    assert dataclasses.replace(EXAMPLE, target="prompt").text == "How do I bake bread?"
    assert ModerationExample(Conversation.user("Hello"), "response").text == ""


def test_records_can_be_hashed_and_copied() -> None:
    preference = PreferenceExample(Conversation.user("a"), "b", "c")
    completion = PromptCompletionExample(Conversation.user("a"), "b")
    for record in (EXAMPLE, preference, completion, ModerationExample(Conversation.user("a"), "prompt")):
        assert copy.deepcopy(record) == record
        assert len({record, copy.deepcopy(record)}) == 1
    assert dataclasses.asdict(EXAMPLE)["categories"] == {"duoguard/hate": False}


def test_upstream_columns_do_not_make_two_examples_different() -> None:
    assert dataclasses.replace(EXAMPLE, raw={}) == EXAMPLE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How do I bake bread?", "how do i bake bread"),
        ("  HOW do i, bake\nbread!! ", "how do i bake bread"),
        ("Ｈｏｗ ﬁne", "how fine"),
        ("STRASSE straße", "strasse strasse"),
        ("snake_case", "snake case"),
        ("面包怎么做？", "面包怎么做"),
        ("?!", ""),
    ],
)
def test_prompts_are_folded_by_case_width_and_punctuation(text: str, expected: str) -> None:
    assert normalise_prompt(text) == expected


@given(st.text(max_size=40))
def test_a_folded_prompt_is_words_of_letters_and_digits(text: str) -> None:
    folded = normalise_prompt(text)
    assert folded == " ".join(folded.split())
    assert all(c == " " or c.isalnum() for c in folded)


@given(st.text(max_size=40))
def test_a_prompts_key_ignores_blanks_and_canonical_form(text: str) -> None:
    assert len(prompt_key(text)) == 16
    assert prompt_key(f" {text}\n") == prompt_key(text)
    assert prompt_key(unicodedata.normalize("NFD", text)) == prompt_key(unicodedata.normalize("NFC", text))


def test_prompts_of_signs_alone_have_keys_of_their_own() -> None:
    assert len({prompt_key(text) for text in ("?!", "...", "🙂", "🙁", "")}) == 5


def test_half_a_surrogate_pair_has_a_key() -> None:
    assert len(prompt_key("\ud800")) == 16


def test_an_example_is_written_as_json_and_read_back() -> None:
    written = json.loads(json.dumps(example_to_json(EXAMPLE)))
    assert "raw" not in written
    assert example_from_json(written) == EXAMPLE


def test_an_example_without_a_group_is_grouped_by_its_text() -> None:
    value = {"messages": [{"role": "user", "content": "Hello!"}], "target": "prompt"}
    assert example_from_json(value).group == prompt_key("hello")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"target": "both"}, "row.target"),
        ({"harmful": 1}, "row.harmful"),
        ({"harmful": "no"}, "row.harmful"),
        ({"categories": {"duoguard/hate": 1}}, "row.categories.duoguard/hate"),
        ({"categories": ["duoguard/hate"]}, "row.categories"),
        ({"language": None}, "row.language"),
        ({"id": 5}, "row.id"),
        ({"eval_overlap": "other"}, "row.eval_overlap"),
        ({"eval_overlap": [1]}, "row.eval_overlap"),
        ({"harmfull": True}, "row"),
        ({"messages": None}, "row.messages"),
        ({"messages": [{"role": "user"}]}, "row.messages[0].content"),
    ],
)
def test_a_malformed_example_is_refused_with_its_field(change: dict[str, Any], where: str) -> None:
    with pytest.raises(DataError) as error:
        example_from_json(example_to_json(EXAMPLE) | change)
    assert error.value.where == where
