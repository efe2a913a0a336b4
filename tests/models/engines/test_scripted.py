"""The scripted engine answers from its script and honours what applies to a fixed answer."""

from __future__ import annotations

import math

import pytest

from corral.core.errors import EngineError
from corral.data.messages import Conversation
from corral.models.engines.base import GenerationSettings
from corral.models.engines.scripted import ScriptedEngine

SETTINGS = GenerationSettings()


def test_answers_are_looked_up_by_the_last_message():
    engine = ScriptedEngine({"hi": "hello"}, default="pardon?")
    prompts = [Conversation.user("hi"), "hi", Conversation.exchange("hi", "and?")]
    assert [g.text for g in engine.generate(prompts, SETTINGS)] == ["hello", "hello", "pardon?"]


def test_a_function_sees_the_prompt_and_may_fail():
    engine = ScriptedEngine(lambda prompt: str(1 / len(prompt)))
    assert engine.generate(["ab"], SETTINGS)[0].text == "0.5"
    with pytest.raises(ZeroDivisionError):
        engine.generate([""], SETTINGS)


def test_a_prompt_that_is_not_in_the_script_is_an_engine_error():
    with pytest.raises(EngineError, match="no answer"):
        ScriptedEngine({}).generate(["hi"], SETTINGS)


def test_stop_strings_and_the_limit_cut_at_whole_characters():
    engine = ScriptedEngine({"q": "one; twoé"})
    (stopped,) = engine.generate(["q"], GenerationSettings(stop=("two", ";")))
    assert (stopped.text, stopped.finish_reason) == ("one", "stop")
    (cut,) = engine.generate(["q"], GenerationSettings(max_new_tokens=9))
    assert (cut.text, cut.finish_reason, cut.prompt_tokens) == ("one; two", "length", 1)


def test_streaming_gives_the_same_text():
    engine = ScriptedEngine({"q": "née"})
    assert list(engine.stream("q", SETTINGS)) == ["n", "é", "e"]


def test_log_likelihoods_are_scripted_or_uniform_over_bytes():
    engine = ScriptedEngine({"q": "é"})
    (score,) = engine.logprobs([("q", "é")])
    assert score.total == pytest.approx(-2 * math.log(256))
    assert (score.greedy, score.token_ids) == (True, tuple("é".encode()))
    scripted = ScriptedEngine({"q": "yes"}, logprob=lambda prompt, completion: -3.0)
    (score,) = scripted.logprobs([("q", "no")])
    assert (score.total, score.greedy) == (pytest.approx(-3.0), False)
