"""Scores from the three label positions, against brute force."""

import math

import pytest
import torch

from corral.core.errors import EngineError
from corral.guards.base import Status
from corral.guards.prompted.exchanges import Exchange
from corral.guards.prompted.framing import framed
from corral.guards.prompted.leads import find_answer_lead
from corral.guards.wildguard.answers import LABELS, LINES
from corral.guards.wildguard.prompts import render
from corral.guards.wildguard.scoring import (
    LineScore,
    Question,
    generate_lines,
    score_lines,
)
from corral.models.engines.scripted import ScriptedEngine

PROMPT = framed(render(Exchange("bad tea", "no way")), "chat")
OPENING = f"{LINES[0]}:"


def brute_force(engine, given, label):
    """Log-probability of a label after the prompt and the answer so far: one forward pass over the whole text."""
    prompt, answer = engine.chat.encode_completion(PROMPT, given + label)
    before = len(engine.chat.encode_completion(PROMPT, given)[1])
    ids = torch.tensor([[*prompt, *answer]])
    with torch.inference_mode():
        logprobs = engine.model(input_ids=ids).logits[0].float().log_softmax(-1)
    start = len(prompt) + before
    return sum(logprobs[i - 1, ids[0, i]].item() for i in range(start, ids.shape[1]))


@pytest.mark.parametrize("kind", ["byte_engine", "word_engine", "trained_engine"])
def test_each_line_is_scored_after_the_decided_lines_before_it(kind, request):
    engine = request.getfixturevalue(kind)
    (reading,) = score_lines(engine, [Question(PROMPT)])
    given = ""
    for line, answer in enumerate(reading.answers):
        given += f"{chr(10) if line else ''}{LINES[line]}:"
        logprobs = {label: brute_force(engine, given, f" {label}") for label in LABELS[line]}
        yes, no = math.exp(logprobs["yes"]), math.exp(logprobs["no"])
        assert answer.p == pytest.approx(yes / (yes + no), rel=1e-3)
        assert answer.mass == pytest.approx(sum(map(math.exp, logprobs.values())), rel=1e-3)
        assert answer.label == max(logprobs, key=logprobs.__getitem__)
        if line:
            assert answer.p_na == pytest.approx(math.exp(logprobs["n/a"]), rel=1e-3)
        given += f" {answer.label}"
    assert reading.written == given


def test_a_batch_is_its_items_one_by_one(word_engine):
    prompts = [framed(render(Exchange(text, reply)), "chat") for text, reply in [("a" * 50, None), ("b", "c" * 9)]]
    questions = [Question(prompts[0], lines=1), Question(prompts[1])]
    together = score_lines(word_engine, questions)
    for question, reading in zip(questions, together, strict=True):
        (alone,) = score_lines(word_engine, [question])
        assert [a.label for a in alone.answers] == [a.label for a in reading.answers]
        assert [a.p for a in alone.answers] == pytest.approx([a.p for a in reading.answers], abs=1e-5)
    assert [len(reading.answers) for reading in together] == [1, 3]


def test_a_line_as_probabilities():
    answer = LineScore(math.log(0.6), math.log(0.2), math.log(0.1)).answer
    assert (answer.label, answer.p, answer.p_na, answer.mass) == (
        "yes",
        pytest.approx(0.75),
        pytest.approx(0.1),
        pytest.approx(0.9),
    )
    assert LineScore(-2.0, -2.0, -2.0).label == "yes"
    assert LineScore(-2.0, -3.0, -1.0).label == "n/a"
    assert LineScore(-math.inf, -math.inf).answer.p is None


@pytest.mark.parametrize("values", [(math.nan, -1.0), (0.1, -1.0), (-0.1, -0.1), (-1.0, -1.0, math.inf)])
def test_what_is_no_probability_is_refused(values):
    with pytest.raises(EngineError):
        LineScore(*values)


def test_a_question_that_fails_takes_no_other_with_it():
    def logprob(prompt, completion):
        if "bad" in prompt and "refusal" in completion:
            raise EngineError("secret")
        return -1.5

    readings = score_lines(
        ScriptedEngine(lambda _: "", logprob=lambda p, c: logprob(p, c) if c[-1] != ":" else 0.0),
        [Question("a"), Question("bad"), Question("c", lines=1)],
    )
    assert [len(reading.answers) for reading in readings] == [3, 3, 1]
    assert readings[1].answers[0].label == "yes"
    assert [failure.status for failure in readings[1].answers[1:]] == [Status.ERROR] * 2
    assert "secret" not in readings[1].answers[1].detail


def test_generated_lines_are_read_as_they_are():
    replies = {"a": "Harmful request: no\nnonsense\nHarmful response: n/a", "b": "x" * 200}
    first, second = generate_lines(ScriptedEngine(replies), [Question("a", lines=1), Question("b")])
    assert [answer.label for answer in first.answers] == ["no", None, "n/a"]
    assert [answer.label for answer in second.answers] == [None] * 3


@pytest.mark.parametrize("lead", ["", " ", "\n"])
def test_the_lead_is_what_the_model_writes_before_its_first_line(lead):
    def logprob(_, completion):
        return -1.0 if completion == f"{lead}Harmful request:" else -9.0

    assert find_answer_lead(ScriptedEngine(lambda _: "", logprob=logprob), "p", OPENING) == lead


def test_the_trained_model_needs_no_lead(trained_engine):
    assert find_answer_lead(trained_engine, PROMPT, OPENING) == ""
