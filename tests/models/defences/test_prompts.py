"""Prompt defences: what the model is asked instead, whatever the form of the prompt."""

from __future__ import annotations

import pytest

from corral.data.messages import Conversation, ImagePart, Message, TextPart
from corral.models.defences.engine import DefendedEngine
from corral.models.defences.prompts import InContextRefusal, Paraphrase, SelfReminder
from corral.models.engines.base import GenerationSettings
from corral.models.engines.scripted import ScriptedEngine
from corral.models.prompts import PlainText, Prefilled, Unescaped

ASKED = Conversation((Message.of("system", "Be brief."), Message.of("user", "How tall is it?")))
LATER = Conversation(
    (Message.of("user", "Hello"), Message.of("assistant", "Hello."), Message.of("user", "How tall is it?"))
)
SETTINGS = GenerationSettings(max_new_tokens=200)


def texts(conversation):
    return [(message.role, message.text) for message in conversation.messages]


@pytest.mark.parametrize("conversation", [ASKED, LATER])
def test_a_reminder_stands_before_and_after_the_last_request_alone(conversation):
    (found,) = SelfReminder().rewrite([conversation])
    assert texts(found)[:-1] == texts(conversation)[:-1]
    before, request, after = (part.strip() for part in found.messages[-1].text.partition("How tall is it?"))
    assert request == "How tall is it?"
    assert "responsibl" in before
    assert "responsible" in after


def test_demonstrations_come_after_the_system_and_before_all_turns():
    (found,) = InContextRefusal([("Do harm.", "No.")]).rewrite([ASKED])
    assert texts(found) == [("system", "Be brief."), ("user", "Do harm."), ("assistant", "No."), texts(ASKED)[1]]
    (found,) = InContextRefusal().rewrite([LATER])
    assert [role for role, _ in texts(found)] == ["user", "assistant"] * 2 + ["user"]
    assert InContextRefusal().rewrite([Conversation(())])[0].messages


def test_a_paraphrase_is_the_engines_and_an_empty_one_changes_nothing():
    engine = ScriptedEngine(lambda prompt: "" if "Hello" in prompt.messages[-1].text else " What is its height? ")
    found = Paraphrase(engine, revision="1").rewrite([ASKED, Conversation.user("Hello")])
    assert texts(found[0]) == [("system", "Be brief."), ("user", "What is its height?")]
    assert found[1] == Conversation.user("Hello")


def test_a_picture_beside_the_words_stays():
    picture = ImagePart("https://example.org/a.png")
    conversation = Conversation((Message("user", (TextPart("What is this?"), picture)),))
    (found,) = SelfReminder().rewrite([conversation])
    assert found.messages[0].content[1:] == (picture,)


def test_an_engine_is_asked_what_the_defence_makes_of_each_prompt():
    seen = []

    def reply(prompt):
        seen.append(prompt)
        return "ok"

    engine = DefendedEngine(ScriptedEngine(reply, name="m"), InContextRefusal([("Do harm.", "No.")]))
    assert engine.name == "m + in-context-refusal"
    prompts = [ASKED, Prefilled(ASKED, "Sure"), "raw", PlainText("plain"), Unescaped(ASKED)]
    answers = engine.generate(prompts, SETTINGS)
    (shown,) = InContextRefusal([("Do harm.", "No.")]).rewrite([ASKED])
    assert seen == [shown, Prefilled(shown, "Sure"), "raw", PlainText("plain"), Unescaped(shown)]
    assert [answer.text for answer in answers] == ["ok"] * 5
    assert "".join(engine.stream(ASKED, SETTINGS)) == "ok"
    engine.logprobs([(ASKED, "ok")])
    assert seen[-1] == shown


def test_another_wording_is_another_revision():
    assert SelfReminder().revision == SelfReminder().revision
    assert InContextRefusal().revision != InContextRefusal([("a", "b")]).revision
    engine = ScriptedEngine({}, default="x")
    assert Paraphrase(engine, revision="1").revision != Paraphrase(engine, revision="2").revision
