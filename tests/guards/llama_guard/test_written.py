"""The guard on what a model writes of its own accord: inside the grammar a verdict, outside it none, and never safe."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError, EngineError
from corral.data.messages import Conversation
from corral.guards.base import Status
from corral.guards.llama_guard.grammar import format_verdict
from corral.guards.llama_guard.guard import LlamaGuard
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.guards.loading import load_guard
from corral.guards.policy import Action, Policy
from corral.models.engines.scripted import ScriptedEngine

POLICY = PolicyPrompt.of("3", {"Fraud": "", "Spoilers": "", "Weapons": ""})
CODES = POLICY.codes
# The oracle: every verdict that there is.
VERDICTS = {
    format_verdict(codes): codes
    for codes in itertools.chain.from_iterable(itertools.permutations(CODES, n) for n in range(4))
}
PIECES = st.lists(
    st.sampled_from(
        ["safe", "unsafe", "\n", ",", " ", "S1", "S2", "S3", "S4", "S", "Not ", ".", "Safe", "SAFE", "\r", "\u200b"]
    ),
    max_size=8,
).map("".join)


def never(*_):
    raise AssertionError("nothing is scored")


def guard_that_writes(reply, **options):
    engine = ScriptedEngine(reply if callable(reply) else lambda _: reply, logprob=never)
    return LlamaGuard(engine, POLICY, decode="generate", **options)


def judged(reply, **options):
    (verdict,) = guard_that_writes(reply, **options).classify([Conversation.user("hi")])
    return verdict


def assert_blocked(verdict):
    assert (verdict.flagged, verdict.p_harm, dict(verdict.categories)) == (None, None, {})
    assert Policy.default().decide([verdict]).action is Action.BLOCK


@given(PIECES | st.sampled_from(sorted(VERDICTS)) | st.text(max_size=30))
def test_an_answer_is_a_verdict_exactly_when_it_is_in_the_grammar(text):
    verdict = judged(text)
    codes = VERDICTS.get(text.removeprefix(" ").strip("\n"))
    if codes is None or len(text.encode()) > len("\n\nunsafe\nS1,S2,S3") + 1:
        assert verdict.status is Status.UNPARSEABLE
        assert_blocked(verdict)
    else:
        assert (verdict.status, verdict.flagged, verdict.p_harm) == (Status.OK, bool(codes), float(bool(codes)))
        assert dict(verdict.categories) == {f"custom/{code}": 1.0 for code in codes}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("safe unsafe", "neither"),
        ("Not safe.", "neither"),
        ("", "neither"),
        ("safe\nS1", "follows `safe`"),
        ("unsafe", "no codes"),
        ("unsafe\nS4", "not a list"),
        ("unsafe\nS1,S1", "repeated"),
        ("safe" + "\n" * 99, "cut off"),
    ],
)
def test_the_detail_names_the_rule_and_quotes_nothing(text, problem):
    verdict = judged(text)
    assert verdict.status is Status.UNPARSEABLE
    assert problem in verdict.detail
    assert "S4" not in verdict.detail
    assert_blocked(verdict)


def test_there_are_no_probabilities():
    verdict = judged("unsafe\nS2")
    assert (verdict.p_raw, verdict.mass) == (None, None)
    assert (verdict.p_harm, verdict.windows) == (1.0, 1)


def test_scores_are_the_default():
    assert LlamaGuard(ScriptedEngine({}), POLICY).decode == "score"


def test_one_window_that_cannot_be_read_makes_the_message_so():
    def reply(prompt):
        return "I cannot say." if "odd" in str(prompt) else "unsafe\nS1" if "cheat" in str(prompt) else "safe"

    guard = guard_that_writes(reply, window=1700)
    long = "word " * 300
    odd, cheat, fine = guard.classify([Conversation.user(f"{long}{word}{long}") for word in ("odd ", "cheat ", "")])
    assert (odd.status, odd.windows > 3) == (Status.UNPARSEABLE, True)
    assert (cheat.flagged, dict(cheat.categories)) == (True, {"custom/S1": 1.0})
    assert (fine.flagged, dict(fine.categories)) == (False, {})


def test_an_answer_that_fails_takes_no_other_with_it():
    def reply(prompt):
        if "crash" in str(prompt):
            raise EngineError("secret words")
        return "safe"

    verdicts = guard_that_writes(reply).classify([Conversation.user(text) for text in ("a", "crash", "b")])
    assert [v.status for v in verdicts] == [Status.OK, Status.ERROR, Status.OK]
    assert "secret" not in verdicts[1].detail


def test_categories_alone_are_read_by_their_own_code():
    def reply(prompt):
        return "unsafe\nS1" if "Weapons" in str(prompt) and "Fraud" not in str(prompt) else "safe"

    verdict = judged(reply, category_mode="scored")
    assert (verdict.flagged, dict(verdict.categories)) == (
        False,
        {"custom/S1": 0.0, "custom/S2": 0.0, "custom/S3": 1.0},
    )
    # With one category in the prompt, S3 is a code that it does not have.
    verdict = judged(lambda prompt: "unsafe\nS3" if "Fraud" not in str(prompt) else "safe", category_mode="scored")
    assert verdict.status is Status.UNPARSEABLE
    assert "custom/S2" in verdict.detail


def test_no_categories_are_named_where_none_are_wanted():
    assert dict(judged("unsafe\nS1", category_mode="none").categories) == {}


def test_another_policy_is_asked_in_the_same_way():
    guard = guard_that_writes("unsafe\nS3")
    other = guard.with_policy(POLICY.with_categories(["S1"]))
    assert guard.classify([Conversation.user("hi")])[0].flagged is True
    assert other.classify([Conversation.user("hi")])[0].status is Status.UNPARSEABLE
    assert guard.revision != LlamaGuard(guard.engine, POLICY).revision


def test_a_model_without_its_tokenizer_is_asked_on_a_server(monkeypatch):
    def connect(*_, **__):
        return ScriptedEngine(lambda _: "safe", logprob=never), "there"

    monkeypatch.setattr("corral.guards.prompted.loading.connect_engine", connect)
    guard = load_guard("llama-guard", model="Llama-Guard-3-8B", server="http://host/v1", decode="generate")
    assert guard.classify([Conversation.user("hi")])[0].flagged is False


def test_a_random_model_writes_no_verdict(byte_engine):
    verdicts = LlamaGuard(byte_engine, POLICY, decode="generate").classify([Conversation.user(t) for t in ("a", "b")])
    assert {v.status for v in verdicts} == {Status.UNPARSEABLE}


def test_no_other_way_to_decode():
    with pytest.raises(ConfigError, match="score or generate"):
        LlamaGuard(ScriptedEngine({}), POLICY, decode="sample")
