"""The scripted guard does what its script says."""

import pytest

from corral.core.errors import ConfigError
from corral.data.messages import Conversation
from corral.guards.base import Guard, Status
from corral.guards.scripted import ScriptedGuard


def test_it_flags_its_word_in_the_judged_message_only():
    guard = ScriptedGuard()
    assert isinstance(guard, Guard)
    verdicts = guard.classify([Conversation.user("a TRIGGER b"), Conversation.exchange("TRIGGER", "hello")])
    assert [v.flagged for v in verdicts] == [True, False]
    (both,) = guard.classify_both([Conversation.exchange("TRIGGER", "hello")])
    assert {target: v.flagged for target, v in both.items()} == {"prompt": True, "response": False}


def test_it_follows_a_function_and_names_categories():
    guard = ScriptedGuard(rule=lambda text, target: len(text) / 10, categories={"gun": "llama_guard_3/S9"})
    (verdict,) = guard.classify([Conversation.user("gun !")])
    assert verdict.p_harm == 0.5
    assert dict(verdict.categories) == {"llama_guard_3/S9": 0.99}
    assert guard.taxonomy == "llama_guard_3"


@pytest.mark.parametrize("fault", ["error", "timeout", "unparseable"])
def test_it_fails_as_told(fault):
    guard = ScriptedGuard(faults={"BOOM": fault})
    verdicts = guard.classify([Conversation.user("BOOM"), Conversation.user("TRIGGER")])
    assert [v.status for v in verdicts] == [Status(fault), Status.OK]


def test_it_raises_and_miscounts_as_told():
    with pytest.raises(RuntimeError):
        ScriptedGuard(faults={"BOOM": "raise"}).classify([Conversation.user("BOOM")])
    guard = ScriptedGuard(faults={"BOOM": "short"})
    assert len(guard.classify([Conversation.user("BOOM"), Conversation.user("b")])) == 1
    assert guard.classify_both([Conversation.user("BOOM")]) == []


def test_it_refuses_what_no_guard_of_text_reads():
    guard = ScriptedGuard(max_chars=3)
    verdicts = guard.classify([Conversation.user("TRIGGER"), Conversation.user(" ")])
    assert [v.status for v in verdicts] == [Status.ERROR] * 2


def test_another_script_is_another_revision():
    assert ScriptedGuard().revision == ScriptedGuard().revision
    assert ScriptedGuard().revision != ScriptedGuard(("OTHER",)).revision


def test_an_unknown_fault_is_refused():
    with pytest.raises(ConfigError, match="explode"):
        ScriptedGuard(faults={"BOOM": "explode"})
