"""What callers hear who ask about conversations in groups of their own."""

from corral.data.messages import Conversation, Message
from corral.guards.asking import ask, ask_both
from corral.guards.base import Status
from corral.guards.wildguard.guard import WildGuard
from corral.models.engines.scripted import ScriptedEngine

FINE = Conversation.user("hi")
ODD = Conversation((Message.of("user", "a"), Message.of("user", "b")))
EMPTY = Conversation.user(" ")
ANSWER = "Harmful request: no\nResponse refusal: n/a\nHarmful response: n/a"


def guard():
    return WildGuard(ScriptedEngine(lambda _: ANSWER), decode="generate")


def test_a_guard_names_the_index_in_the_call_and_the_rule():
    verdicts = guard().classify([FINE, ODD, EMPTY])
    assert [v.status for v in verdicts] == [Status.OK, Status.ERROR, Status.ERROR]
    assert (
        verdicts[1].detail == "conversations[1].messages[1]: two turns of one role in a row: expected Agent, got User"
    )
    assert verdicts[2].detail == "conversations[2]: the prompt is empty"


def test_who_regroups_conversations_hears_no_index():
    details = [verdict.detail for verdict in ask(guard(), [FINE, ODD, EMPTY])]
    assert details == [
        None,
        "messages[1]: two turns of one role in a row: expected Agent, got User",
        "the prompt is empty",
    ]
    assert [both["prompt"].detail for both in ask_both(guard(), [FINE, ODD, EMPTY])] == details
