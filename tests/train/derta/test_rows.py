"""Rows of DeRTa: label arrays written out by hand, the draw of prefixes, what is refused and what is dropped."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from corral.core.config import load_config
from corral.core.errors import DataError
from corral.data.examples import PreferenceExample, PromptCompletionExample
from corral.data.messages import Conversation, Message
from corral.models.chat import ChatTokenizer
from corral.models.loading import load_tokenizer
from corral.models.tiny import write_tiny_llama
from corral.train.derta.rows import (
    NO_ROOM,
    TOO_SHORT,
    BuiltRows,
    Example,
    build_rows,
    draw_prefix,
    encode_seam,
    generator_of,
)
from corral.train.derta.settings import DertaConfig, PrefixConfig
from corral.train.sft import IGNORED

R = 83
"""The byte-level tiny tokenizer's id is not the point; any id serves as the refusal label."""
ASKED = Conversation.user("How is it made?")
SAFE, HARMFUL = "Sorry, no.", "First take one and then two"


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return ChatTokenizer(load_tokenizer(write_tiny_llama(tmp_path_factory.mktemp("models") / "bytes")))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    """A tokenizer that merges a space with the word after it, as most do."""
    texts = [f" {SAFE} {HARMFUL}", SAFE, HARMFUL] * 3
    folder = write_tiny_llama(tmp_path_factory.mktemp("models") / "words", words_of=texts)
    return ChatTokenizer(load_tokenizer(folder))


def triple(**changes: Any) -> PreferenceExample:
    return PreferenceExample(**{"prompt": ASKED, "chosen": SAFE, "rejected": HARMFUL, **changes})


def config(**changes: Any) -> DertaConfig:
    return load_config(DertaConfig, {"max_tokens": 400, **changes})


def built(chat: ChatTokenizer, *examples: Example, **changes: Any) -> BuiltRows:
    return build_rows([(f"rows[{i}]", each) for i, each in enumerate(examples)], chat, config(**changes), R)


def shown(chat: ChatTokenizer, ids: list[int]) -> str:
    return str(chat.backend.decode(ids, skip_special_tokens=False))


def learnt(chat: ChatTokenizer, labels: list[int]) -> str:
    return shown(chat, [label for label in labels if label != IGNORED])


def test_a_help_row_learns_the_answer_and_its_end(chat: ChatTokenizer) -> None:
    (row,) = built(chat, PromptCompletionExample(ASKED, "By hand.")).rows
    prompt = chat.encode_prompt(ASKED)
    answer = [*chat.encode_text("By hand."), chat.tokenizer.eos_token_id]
    assert row.kind == "help"
    assert row.input_ids == prompt + answer
    assert row.labels == [IGNORED] * len(prompt) + answer


def test_a_prefix_row_reads_request_and_prefix_and_learns_the_safe_answer(chat: ChatTokenizer) -> None:
    row = built(chat, triple(), prefix={"p_zero": 0}).rows[0]
    text = shown(chat, row.input_ids).removeprefix(shown(chat, chat.encode_prompt(ASKED)))
    prefix = text.removesuffix(f" {SAFE}<|im_end|>")
    assert row.kind == "prefix"
    assert prefix in {"First", "First take", "First take one", "First take one and"}
    assert learnt(chat, row.labels) == f"{SAFE}<|im_end|>"
    assert row.labels[-row.targets :] == row.input_ids[-row.targets :]


def test_without_a_prefix_the_safe_answer_follows_the_request(chat: ChatTokenizer) -> None:
    row = built(chat, triple(), prefix={"p_zero": 1}).rows[0]
    assert row.input_ids == [*chat.encode_prompt(ASKED), *chat.encode_text(SAFE), chat.tokenizer.eos_token_id]


@pytest.mark.parametrize(("include_eos", "complete", "ends"), [(True, True, 1), (False, True, 0), (True, False, 0)])
def test_a_transition_row_has_the_refusal_token_at_every_place_of_the_harmful_answer(
    chat: ChatTokenizer, include_eos: bool, complete: bool, ends: int
) -> None:
    row = built(chat, triple(rejected_complete=complete), rto={"include_eos": include_eos}).rows[1]
    prompt, harmful = chat.encode_prompt(ASKED), chat.encode_text(HARMFUL)
    assert row.kind == "rto"
    assert row.input_ids == [*prompt, *harmful, *([chat.tokenizer.eos_token_id] if complete else [])]
    beyond = [R] * ends if ends or not complete else [IGNORED]
    assert row.labels == [IGNORED] * len(prompt) + [R] * len(harmful) + beyond


def test_every_arm_makes_two_safety_rows_of_a_triple(chat: ChatTokenizer) -> None:
    kinds = {
        arm: Counter(row.kind for row in built(chat, triple(), triple(), arm=arm).rows)
        for arm in ("vanilla", "recaug", "rto_only", "derta", "dpo")
    }
    assert kinds["vanilla"] == kinds["dpo"] == {"plain": 4}
    assert kinds["recaug"] == {"prefix": 4}
    assert kinds["rto_only"] == {"plain": 2, "rto": 2}
    assert kinds["derta"] == {"prefix": 2, "rto": 2}
    plain = built(chat, triple(), arm="vanilla").rows
    assert plain[0].input_ids == plain[1].input_ids == built(chat, triple(), arm="rto_only").rows[0].input_ids


def test_a_token_that_straddles_the_seam_belongs_to_the_answer(words: ChatTokenizer) -> None:
    read, answer = encode_seam("First take one", "and then two", words)
    assert shown(words, read) == "First take one"
    assert shown(words, answer) == " and then two"
    assert read + answer == words.encode_text("First take one and then two")


@given(
    st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12),
    st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12),
)
def test_no_token_is_lost_or_shared_at_the_seam(chat: ChatTokenizer, prefix: str, answer: str) -> None:
    """Multi-byte characters among them: the bytes of an answer's character are all the answer's."""
    read, learnt_ids = encode_seam(prefix, answer, chat)
    assert read + learnt_ids == chat.encode_text(f"{prefix} {answer}")
    assert shown(chat, learnt_ids) == answer


def test_words_before_the_seam_are_uniform_and_every_third_row_has_none(chat: ChatTokenizer) -> None:
    """1 .. n - 2 words, by a chi-square test; rows 0, 3, 6, ... exactly have no prefix, as in the released code."""
    harmful = " ".join("abcdefgh")
    rows = [
        row
        for row in built(chat, *(triple(rejected=harmful) for _ in range(1800)), arm="derta").rows
        if row.kind == "prefix"
    ]
    start = shown(chat, chat.encode_prompt(ASKED))
    lengths = [
        len(shown(chat, r.input_ids).removeprefix(start).removesuffix(f"{SAFE}<|im_end|>").split()) for r in rows
    ]
    assert [i for i, length in enumerate(lengths) if length == 0] == list(range(0, 1800, 3))
    counts = np.bincount([length for length in lengths if length], minlength=7)[1:]
    assert len(counts) == 6
    assert chisquare(counts).pvalue > 0.001


def test_a_share_without_prefix_can_be_drawn(chat: ChatTokenizer) -> None:
    prefixed = {"p_zero": 0.5, "zero_by": "random"}
    rows = built(chat, *(triple() for _ in range(400)), arm="recaug", prefix=prefixed).rows
    bare = sum(
        row.input_ids == rows[0].input_ids for row in rows if len(row.input_ids) == min(len(r.input_ids) for r in rows)
    )
    assert 0.4 < bare / len(rows) < 0.6


def test_prefixes_by_tokens_are_from_none_to_all_of_them(chat: ChatTokenizer) -> None:
    drawn = {draw_prefix("abcd", chat, PrefixConfig(granularity="token"), generator_of(0, str(i))) for i in range(200)}
    assert drawn == {"", "a", "ab", "abc", "abcd"}


def test_an_answer_of_two_words_gives_no_prefix_row_and_is_counted(chat: ChatTokenizer) -> None:
    found = built(chat, triple(rejected="two words"))
    assert [row.kind for row in found.rows] == ["rto"]
    assert found.dropped == {TOO_SHORT: 1}


def test_rows_are_cut_and_those_without_a_target_dropped_and_counted(chat: ChatTokenizer) -> None:
    prompt = len(chat.encode_prompt(ASKED))
    found = built(chat, triple(), prefix={"p_zero": 0}, max_tokens=prompt + 5)
    (row,) = found.rows
    assert row.kind == "rto"
    assert row.labels == [IGNORED] * prompt + [R] * 5
    assert found.dropped == {NO_ROOM: 1}
    nothing = built(chat, triple(), PromptCompletionExample(ASKED, "x"), max_tokens=prompt)
    assert nothing.rows == ()
    assert nothing.dropped == {NO_ROOM: 3}
    assert nothing.account() == {
        "rows": {"help": 0, "plain": 0, "prefix": 0, "rto": 0},
        "targets": {"help": 0, "plain": 0, "prefix": 0, "rto": 0},
        "dropped": {NO_ROOM: 3},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chosen": " "}, "safe answer is empty"),
        ({"rejected": ""}, "harmful answer is empty"),
        ({"rejected": f"{SAFE}\n"}, "the same"),
    ],
)
def test_a_triple_that_teaches_nothing_is_refused_by_its_place(
    chat: ChatTokenizer, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        built(chat, triple(), triple(**changes))
    assert caught.value.where == "rows[1]"
    told: list[str] = []
    kept = build_rows(
        [("a:1", triple()), ("a:2", triple(**changes))],
        chat,
        config(),
        R,
        on_reject=lambda where, _: told.append(where),
    )
    assert told == ["a:2"]
    assert len(kept.rows) == 2


def test_a_template_without_assistant_turns_is_refused(chat: ChatTokenizer) -> None:
    deaf = ChatTokenizer(chat.tokenizer)
    deaf.__dict__["_template"] = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    with pytest.raises(DataError, match="assistant's turn"):
        built(deaf, triple())


def test_the_released_template_stands_around_the_request_as_plain_text(chat: ChatTokenizer) -> None:
    row = built(chat, triple(prompt=Conversation.user("x")), template="released", prefix={"p_zero": 1}).rows[0]
    assert shown(chat, row.input_ids).endswith(f"[INST] x [\\INST]{SAFE}<|im_end|>")
    several = Conversation((Message.of("user", "x"), Message.of("assistant", "y"), Message.of("user", "z")))
    with pytest.raises(DataError, match="single request"):
        built(chat, triple(prompt=several), template="released")


def test_a_dialogue_of_several_turns_is_a_prompt_too(chat: ChatTokenizer) -> None:
    several = Conversation((Message.of("user", "x"), Message.of("assistant", "y"), Message.of("user", "z")))
    rows = built(chat, triple(prompt=several)).rows
    assert all(row.input_ids[: len(chat.encode_prompt(several))] == chat.encode_prompt(several) for row in rows)


def test_the_same_examples_give_the_same_rows_and_another_seed_other_prefixes(chat: ChatTokenizer) -> None:
    examples = [triple(rejected=" ".join("abcdefghijkl")) for _ in range(8)]
    assert built(chat, *examples) == built(chat, *examples)
    assert built(chat, *examples) != built(chat, *examples, seed=1)
