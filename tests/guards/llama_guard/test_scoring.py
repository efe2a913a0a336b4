"""Scores against closed forms, brute force over the model's own logits, and tables of whole answers."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import EngineError
from corral.data.messages import Conversation
from corral.guards.llama_guard.grammar import format_verdict
from corral.guards.llama_guard.scoring import (
    constrained_codes,
    decode_codes,
    find_label_prefix,
    label_scores,
)
from corral.guards.prompted.probabilities import LabelScore
from corral.models.chat import ChatTokenizer
from corral.models.engines.scripted import ScriptedEngine
from corral.models.engines.torch import TorchEngine

PROMPTS = [Conversation.user(text) for text in ("a", "a longer message", "?" * 60)]


def table_engine(answers, reply="no verdict"):
    """A model that writes whole answers with given probabilities; a string is worth the answers that it begins."""

    def logprob(_prompt, completion):
        total = sum(p for answer, p in answers.items() if answer.startswith(completion))
        return math.log(total) if total else -math.inf

    return ScriptedEngine(lambda _: reply, logprob=logprob)


class WithoutLabels:
    """An engine without its way to score labels at once."""

    def __init__(self, engine):
        self.name, self.generate, self.stream, self.logprobs = (
            engine.name,
            engine.generate,
            engine.stream,
            engine.logprobs,
        )


def next_logprobs(engine, ids):
    with torch.inference_mode():
        return engine.model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)


def string_logprob(engine, prompt, text):
    """Brute force: one forward pass a token, without padding or cache."""
    ids, total = engine.chat.encode_prompt(prompt), 0.0
    for token in engine.chat.encode_text(text):
        total += next_logprobs(engine, ids)[token].item()
        ids = [*ids, token]
    return total


def test_labels_of_one_token_are_a_softmax_of_two_logits(word_engine):
    chat = word_engine.chat
    (safe,), (unsafe,) = chat.encode_text("safe"), chat.encode_text("unsafe")
    for prompt, score in zip(PROMPTS, label_scores(word_engine, PROMPTS), strict=True):
        logits = next_logprobs(word_engine, chat.encode_prompt(prompt))
        expected = logits[[safe, unsafe]].softmax(-1)[1].item()
        assert score.p_unsafe == pytest.approx(expected, abs=1e-6)
        assert score.raw == pytest.approx(logits[unsafe].exp().item(), rel=1e-4)
        assert score.mass == pytest.approx(logits[[safe, unsafe]].exp().sum().item(), rel=1e-4)


@pytest.mark.parametrize("prefix", ["", "\n", "\n\n"])
def test_labels_of_many_tokens_are_scored_as_whole_strings(byte_engine, prefix):
    for prompt, score in zip(PROMPTS, label_scores(byte_engine, PROMPTS, label_prefix=prefix), strict=True):
        log_safe, log_unsafe = (string_logprob(byte_engine, prompt, prefix + label) for label in ("safe", "unsafe"))
        assert score.log_safe == pytest.approx(log_safe, abs=1e-4)
        assert score.p_unsafe == pytest.approx(1 / (1 + math.exp(log_safe - log_unsafe)), rel=1e-4)


def assert_batch_is_items(engine):
    together = label_scores(engine, PROMPTS)
    for prompt, score in zip(PROMPTS, together, strict=True):
        (alone,) = label_scores(engine, [prompt])
        assert score.log_safe == pytest.approx(alone.log_safe, abs=1e-5)
        assert score.log_unsafe == pytest.approx(alone.log_unsafe, abs=1e-5)


def test_a_batch_scores_as_its_items_do(byte_engine, padded_rows):
    assert_batch_is_items(byte_engine)
    assert padded_rows == []  # packed: nothing is padded


def test_a_padded_batch_scores_as_its_items_do(padded_engine, padded_rows):
    assert_batch_is_items(padded_engine)
    assert padded_rows[0] == {padded_engine.padding_side}


@pytest.mark.parametrize("newlines", ["", "\n", "\n\n"])
def test_the_label_position_is_found_after_what_the_template_emits(byte_engine, newlines):
    template = "{{ '<|begin_of_text|>' + messages[0]['content'] + '<|eot_id|>" + newlines.replace("\n", "\\n") + "' }}"
    tokenizer = type(byte_engine.chat.tokenizer)(tokenizer_object=byte_engine.chat.backend, chat_template=template)
    engine = TorchEngine(byte_engine.model, ChatTokenizer(tokenizer))
    (score,) = label_scores(engine, [Conversation.user("hi")])
    end = engine.chat.backend.token_to_id("<|eot_id|>")
    ids = [engine.chat.backend.token_to_id("<|begin_of_text|>"), *engine.chat.encode_text("hi"), end]
    logits = next_logprobs(engine, [*ids, *engine.chat.encode_text(newlines)])
    first = engine.chat.encode_text("unsafe")[0]
    assert engine.logprobs([(Conversation.user("hi"), "unsafe")])[0].logprobs[0] == pytest.approx(
        logits[first].item(), abs=1e-4
    )
    assert score.log_unsafe < 0


@pytest.mark.parametrize("newlines", ["", " ", "\n", "\n\n"])
def test_newlines_that_the_template_leaves_to_the_model_are_found(newlines):
    engine = table_engine({f"{newlines}safe": 0.6, f"{newlines}unsafe\nS1": 0.2, "safe": 0.1, "unsafe\nS1": 0.1})
    assert find_label_prefix(engine, "p") == newlines


@given(st.floats(-800, 0), st.floats(-800, 0))
def test_the_score_is_the_odds_of_the_two_labels(log_safe, log_unsafe):
    if math.exp(log_safe) + math.exp(log_unsafe) > 1:
        return
    score = LabelScore(log_safe, log_unsafe)
    assert score.p_unsafe == pytest.approx((1 + math.tanh((log_unsafe - log_safe) / 2)) / 2, abs=1e-12)
    assert score.mass >= score.raw


def test_two_impossible_labels_have_no_score():
    score = LabelScore(-math.inf, -math.inf)
    assert (score.p_unsafe, score.mass) == (None, 0.0)


@pytest.mark.parametrize("values", [(math.nan, -1.0), (-1.0, math.nan), (0.5, -1.0), (-0.1, -0.1), (-1.0, math.inf)])
def test_what_is_no_log_probability_is_an_error(values):
    with pytest.raises(EngineError):
        LabelScore(*values)


def test_an_answer_inside_the_grammar_gives_its_codes():
    engine = table_engine({"unsafe\nS2,S1": 1.0}, reply="\n\nunsafe\nS2,S1")
    assert decode_codes(engine, ["p"], ("S1", "S2"), max_new_tokens=20) == [("S2", "S1")]


@pytest.mark.parametrize("reply", ["safe", "Not safe.", "unsafe\nS9", "unsafe", "S1", ""])
def test_an_answer_outside_the_grammar_is_decoded_under_it(reply):
    engine = table_engine({"unsafe\nS2": 0.3, "unsafe\nS1": 0.2, reply: 0.5}, reply=reply)
    assert decode_codes(engine, ["p"], ("S1", "S2"), max_new_tokens=20) == [("S2",)]


def test_an_answer_that_was_cut_off_is_decoded_under_the_grammar():
    engine = table_engine({"unsafe\nS1": 0.4, "unsafe\nS1,S2": 0.6}, reply="unsafe\nS1,S2")
    assert decode_codes(engine, ["p"], ("S1", "S2"), max_new_tokens=len("unsafe\nS1")) == [("S1", "S2")]


@given(st.data())
def test_constrained_decoding_is_greedy_over_codes(data):
    # S1 begins S10: brute force counts whole answers, not strings.
    codes = ("S1", "S10", "S2")
    answers = [p for size in (1, 2, 3) for p in itertools.permutations(codes, size)]
    weights = [data.draw(st.integers(1, 1000)) for _ in answers]
    mass = {answer: weight / sum(weights) for answer, weight in zip(answers, weights, strict=True)}

    def worth(start):
        return sum(p for answer, p in mass.items() if answer[: len(start)] == start)

    expected: tuple[str, ...] = ()
    while len(expected) < 3:
        following = {code: worth((*expected, code)) for code in codes if code not in expected}
        ranked = sorted(following.values())
        further = sum(ranked) - worth(expected) / 2
        near_tie = len(ranked) > 1 and ranked[-1] - ranked[-2] < 1e-9
        if near_tie or (expected and abs(further) < 1e-9):
            return
        if expected and further < 0:
            break
        expected = (*expected, max(following, key=following.__getitem__))
    engine = table_engine({format_verdict(answer): p for answer, p in mass.items()})
    assert constrained_codes(engine, ["p"], codes) == [expected]


def test_constrained_decoding_of_a_random_model_gives_codes_of_the_policy(byte_engine):
    codes = tuple(f"S{i}" for i in range(1, 12))
    together = constrained_codes(byte_engine, PROMPTS, codes)
    for prompt, found in zip(PROMPTS, together, strict=True):
        assert found
        assert set(found) <= set(codes)
        assert len(set(found)) == len(found)
        assert constrained_codes(byte_engine, [prompt], codes) == [found]
        assert constrained_codes(WithoutLabels(byte_engine), [prompt], codes) == [found]


def test_no_code_that_could_follow_is_an_error():
    (error,) = constrained_codes(table_engine({"safe": 1.0}), ["p"], ("S1",))
    assert isinstance(error, EngineError)
    assert "no code" in str(error)
