"""The guard as a whole: what it asks an engine, and what it makes of the answers."""

from __future__ import annotations

import math

import pytest

from corral.core.errors import ConfigError, EngineError
from corral.data.messages import Conversation, ImagePart, Message
from corral.guards.base import Guard, Status
from corral.guards.cultureguard.answers import CATEGORIES_KEY, KEY_OF, format_answer, format_until
from corral.guards.cultureguard.guard import CultureGuard
from corral.guards.cultureguard.prompts import CategoryList
from corral.guards.loading import load_guard
from corral.guards.policy import Action, Policy
from corral.models.engines.scripted import ScriptedEngine
from corral.models.prompts import Prefilled

BOTH = ("score", "generate")


def text_of(prompt):
    conversation = prompt.conversation if isinstance(prompt, Prefilled) else prompt
    return conversation.messages[0].text


def exchange_in(prompt):
    """Request and reply of a prompt."""
    body = text_of(prompt).partition("<BEGIN CONVERSATION>\n\n")[2].partition("\n\n<END CONVERSATION>")[0]
    request, there, reply = body.rpartition("user: ")[2].partition("\n\nresponse: agent: ")
    return request, reply if there else None


def right_answer(prompt):
    """Unsafe where the word ``bad`` stands, and then Threat."""
    request, reply = exchange_in(prompt)
    said = ("bad" in request, None if reply is None else "bad" in reply)
    return format_answer(*said, ["Threat"] if any(said) else [])


def writer(answer=right_answer, *, sure=0.9, mass=1.0):
    """An engine with the probabilities of a model that writes these answers, and is as sure of either verdict."""

    def reply(prompt):
        if "crash" in text_of(prompt):
            raise EngineError("secret words")
        if "slow" in text_of(prompt):
            raise TimeoutError
        written = answer(prompt)
        return written.removeprefix(prompt.prefix) if isinstance(prompt, Prefilled) else written

    def logprob(prompt, completion):
        whole = reply(prompt)
        for label in ("unsafe", "safe"):
            if completion.endswith(f'"{label}'):
                given = completion.removesuffix(label)
                truth = whole.startswith(f'{given}{label}"')
                return math.log(mass * (sure if truth else 1 - sure))
        return 0.0

    return ScriptedEngine(reply, logprob=logprob, name="writer")


@pytest.fixture(params=BOTH)
def guard(request):
    return CultureGuard(writer(), decode=request.param)


def test_it_is_a_guard(guard):
    assert isinstance(guard, Guard)
    assert (guard.name, guard.taxonomy) == ("cultureguard", "aegis_2")


@pytest.mark.parametrize("request_text", ["fine", "bad"])
@pytest.mark.parametrize("reply_text", ["fine", "bad"])
def test_one_answer_about_request_and_reply(guard, request_text, reply_text):
    (both,) = guard.classify_both([Conversation.exchange(request_text, reply_text)])
    for target, text in (("prompt", request_text), ("response", reply_text)):
        verdict = both[target]
        assert (verdict.target, verdict.status, verdict.flagged) == (target, Status.OK, text == "bad")
        assert set(verdict.categories) == ({"aegis_2/S11"} if text == "bad" else set())
    assert both["response"].prompt == both["prompt"].prompt


def test_a_request_alone_has_no_response_verdict(guard):
    (both,) = guard.classify_both([Conversation.user("bad")])
    assert both.keys() == {"prompt"}
    assert both["prompt"].flagged


def test_probabilities():
    (verdict,) = CultureGuard(writer(sure=0.8, mass=0.9)).classify([Conversation.exchange("fine", "bad")])
    assert verdict.p_harm == pytest.approx(0.8)
    assert verdict.prompt.p == pytest.approx(0.2)
    assert verdict.response.mass == pytest.approx(0.9)
    assert verdict.categories == {"aegis_2/S11": pytest.approx(0.8)}


def test_without_scores_the_word_stands_for_one_or_zero():
    (verdict,) = CultureGuard(writer(), decode="generate").classify([Conversation.user("bad")])
    assert (verdict.p_harm, verdict.prompt.p, verdict.prompt.mass) == (1.0, None, None)


def test_the_second_verdict_is_asked_after_the_decided_first():
    asked = []
    engine = writer(lambda _: format_answer(True, False))
    plain = engine.logprobs
    engine.logprobs = lambda pairs: asked.extend(text for _, text in pairs) or plain(pairs)
    CultureGuard(engine, name_categories=False).classify_both([Conversation.exchange("a", "b")])
    assert any(text.startswith(format_until(KEY_OF["response"], True)) for text in asked)
    assert not any(text.startswith(format_until(KEY_OF["response"], False)) for text in asked)


def test_a_threshold_moves_the_decision_and_keeps_half_as_the_operating_point():
    guard = CultureGuard(writer(sure=0.7), thresholds={"prompt": 0.8})
    (verdict,) = guard.classify([Conversation.user("bad")])
    assert (verdict.flagged, verdict.prompt.p) == (False, pytest.approx(0.7))
    assert verdict.p_harm < 0.5
    assert verdict.categories == {}


@pytest.mark.parametrize(
    "answer",
    [
        "The user seems nice.",
        '{"Response Safety": "safe"}',
        '{"User Safety": "safe", "Safety Categories": "Violence"}',
        '{"User Safety": "safe"} or {"User Safety": "unsafe"}',
    ],
)
def test_what_is_unparseable_blocks(answer):
    (verdict,) = CultureGuard(writer(lambda _: answer), decode="generate").classify([Conversation.user("fine")])
    assert (verdict.status, verdict.flagged, verdict.p_harm) == (Status.UNPARSEABLE, None, None)
    assert Policy().decide([verdict]).action is Action.BLOCK


def test_labels_of_little_mass_are_no_verdict():
    (verdict,) = CultureGuard(writer(mass=0.2)).classify([Conversation.user("fine")])
    assert (verdict.status, verdict.flagged) == (Status.UNPARSEABLE, None)
    assert verdict.prompt.mass == pytest.approx(0.2)


def test_unknown_categories_are_counted_and_the_verdict_stands(guard):
    strange = format_answer(True, None, ["Rudeness", "Threat"])
    (verdict,) = CultureGuard(writer(lambda _: strange), decode=guard.decode).classify([Conversation.user("x")])
    assert (verdict.flagged, set(verdict.categories), verdict.unknown_categories) == (True, {"aegis_2/S11"}, 1)


def test_categories_of_an_own_taxonomy():
    own = CategoryList.of({"Spoilers": "Tells the end."})
    engine = writer(lambda prompt: format_answer("bad" in text_of(prompt).partition("user: ")[2], None, ["Spoilers"]))
    (verdict,) = CultureGuard(engine, own).classify([Conversation.user("bad")])
    assert set(verdict.categories) == {"custom/S1"}
    assert verdict.categories_failure is None


def test_categories_that_cannot_be_read_leave_the_verdict():
    engine = writer()
    plain = engine.generate

    def failing(prompts, settings):
        if any(isinstance(prompt, Prefilled) for prompt in prompts):
            raise EngineError("secret words")
        return plain(prompts, settings)

    engine.generate = failing
    (verdict,) = CultureGuard(engine).classify([Conversation.user("bad")])
    assert (verdict.flagged, verdict.categories) == (True, {})
    assert verdict.categories_failure
    assert "secret" not in str(verdict.to_json())


def test_a_failure_takes_no_other_conversation_with_it(guard):
    texts = ["bad", "crash", "slow", "", "fine"]
    verdicts = guard.classify([Conversation.user(text) for text in texts])
    assert [v.status for v in verdicts] == [Status.OK, Status.ERROR, Status.TIMEOUT, Status.ERROR, Status.OK]
    assert [v.flagged for v in verdicts] == [True, None, None, None, False]
    assert "secret" not in str([v.to_json() for v in verdicts])


def test_what_it_does_not_read_is_an_error(guard):
    picture = Conversation((Message("user", (ImagePart("https://example.org/a.png"),)),))
    (verdict,) = guard.classify([picture])
    assert verdict.status is Status.ERROR


def test_a_long_message_is_read_to_its_end():
    guard = CultureGuard(writer(), window=4500, name_categories=False)
    text = "fine words. " * 500 + "bad"
    (verdict,) = guard.classify([Conversation.user(text)])
    assert verdict.windows > 1
    assert verdict.flagged
    (cut,) = CultureGuard(writer(), max_chars=100).classify([Conversation.user(text)])
    assert (cut.status, cut.flagged) == (Status.ERROR, None)


def test_what_both_ways_of_reading_say_is_the_same():
    conversations = [Conversation.exchange(a, b) for a in ("fine", "bad") for b in ("fine", "bad")]
    ways = [CultureGuard(writer(), decode=way).classify_both(conversations) for way in BOTH]
    flags = [[{t: v.flagged for t, v in each.items()} for each in way] for way in ways]
    assert flags[0] == flags[1]


def test_the_revision_follows_prompt_and_settings():
    revisions = {
        CultureGuard(writer(), **options).revision
        for options in (
            {},
            {"decode": "generate"},
            {"thresholds": {"prompt": 0.6}},
            {"categories": CategoryList.of("duoguard")},
        )
    }
    assert len(revisions) == 4
    assert CultureGuard(writer()).revision in revisions


def test_its_json_has_every_part(guard):
    (verdict,) = guard.classify([Conversation.exchange("fine", "bad")])
    found = verdict.to_json()
    assert found["response"]["flagged"] is True
    assert found["prompt"]["flagged"] is False
    assert found["taxonomy_version"] == "2"


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"decode": "guess"}, "decode"),
        ({"min_mass": 1.5}, "min_mass"),
        ({"max_chars": 0}, "max_chars"),
        ({"thresholds": {"reply": 0.5}}, "thresholds"),
        ({"thresholds": {"prompt": 1.0}}, "thresholds.prompt"),
        ({"thresholds": {"prompt": 0.5}, "decode": "generate"}, "thresholds.prompt"),
        ({"window": 200}, "window"),
        ({"frame": "none"}, "frame"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, where):
    with pytest.raises(ConfigError) as error:
        CultureGuard(writer(), **options)
    assert error.value.where == where


def test_scores_from_a_server_need_a_tokenizer():
    with pytest.raises(ConfigError) as error:
        load_guard("cultureguard", model="m", server="http://127.0.0.1:1/v1")
    assert error.value.where == "tokenizer"


def test_the_categories_are_asked_only_where_something_is_unsafe():
    asked = []
    engine = writer()
    plain = engine.generate
    engine.generate = lambda prompts, settings: asked.extend(prompts) or plain(prompts, settings)
    CultureGuard(engine).classify([Conversation.user("fine"), Conversation.user("bad")])
    assert [prompt.prefix for prompt in asked] == [format_until(CATEGORIES_KEY, True)]
