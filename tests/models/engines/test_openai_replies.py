"""Whatever a server answers is read or is an EngineError; log-probabilities are numbers that can be one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import EngineError
from corral.models.engines import openai_replies as replies

KEYS = ["choices", "text", "message", "content", "delta", "finish_reason", "logprobs", "tokens", "token_logprobs"]
KEYS += ["top_logprobs", "token", "logprob", "id", "usage", "prompt_tokens", "token_ids", "token_id:5"]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(-(10**400))
    | st.floats()
    | st.sampled_from(["", "stop", "a", "token_id:5"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES)


def lists(**changes):
    logprobs = {"tokens": ["a", "b", "c"], "token_logprobs": [None, -1.0, -2.0], "top_logprobs": [None, {"b": -1.0}]}
    logprobs["top_logprobs"].append({"c": -2.0, "d": -0.5})
    return {"logprobs": logprobs | changes}


@given(OBJECTS)
def test_any_object_is_read_or_is_an_engine_error(value):
    readers = [replies.first_choice, replies.answer_text, replies.delta_text, replies.finish_reason]
    readers += [replies.prompt_tokens, replies.sampled_ids, replies.next_tokens]
    readers.append(lambda choice: replies.echoed_logprobs(choice, [4, 5], 1))
    for reader in readers:
        try:
            reader(value)
        except EngineError as error:
            assert error.message


def test_echoed_scores_are_those_after_the_start_and_greedy_when_each_is_the_likeliest():
    assert replies.echoed_logprobs(lists(), [1, 2, 3], 1) == ((-1.0, -2.0), False)
    assert replies.echoed_logprobs(lists(), [1, 2], 1) == ((-1.0,), True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_logprobs": [None, math.nan, -1.0]}, "`nan` is not a log-probability"),
        ({"token_logprobs": [None, -math.inf, -1.0]}, "not a log-probability"),
        ({"token_logprobs": [None, 0.5, -1.0]}, "`0.5` is not a log-probability"),
        ({"token_logprobs": [None, None, -1.0]}, "a log-probability"),
        ({"token_logprobs": [None, True, -1.0]}, "a log-probability"),
        ({"token_logprobs": [None, -1.0]}, "scored 2 tokens of 3"),
        ({"token_logprobs": None}, "logprobs.token_logprobs"),
        ({"top_logprobs": [None, None, None]}, r"top_logprobs\[1\]"),
        ({"tokens": ["a", "token_id:7", "c"]}, "another token than the one at position 1"),
    ],
)
def test_scores_that_are_missing_or_impossible_are_refused(changes, message):
    with pytest.raises(EngineError, match=message):
        replies.echoed_logprobs(lists(**changes), [1, 2, 3], 1)


def test_next_tokens_are_read_from_lists_and_from_objects():
    in_lists = {"logprobs": {"top_logprobs": [{"token_id:5": -0.5, "b": -1}]}}
    in_objects = {
        "logprobs": {
            "content": [{"token": "a", "logprob": -0.5, "id": 5, "top_logprobs": [{"token": "b", "logprob": -1.0}]}]
        }
    }
    assert replies.next_tokens(in_lists) == (
        replies.TokenLogprob("token_id:5", -0.5, 5),
        replies.TokenLogprob("b", -1.0),
    )
    assert replies.next_tokens(in_objects) == (replies.TokenLogprob("a", -0.5, 5), replies.TokenLogprob("b", -1.0))


@pytest.mark.parametrize("logprobs", [None, {}, {"content": []}, {"top_logprobs": []}, {"top_logprobs": [{}]}])
def test_no_next_tokens_are_an_error(logprobs):
    with pytest.raises(EngineError, match="logprobs"):
        replies.next_tokens({"logprobs": logprobs})


def test_a_refusal_is_an_answer_and_no_text_is_none():
    assert replies.answer_text({"message": {"content": None, "refusal": "No."}}) == "No."
    with pytest.raises(EngineError, match="text"):
        replies.answer_text({"message": {"content": None}})
