"""Which conversations Llama Guard can judge, and as whose turns."""

import pytest

from corral.core.errors import DataError
from corral.data.messages import Conversation, ImagePart, Message, TextPart
from corral.guards.llama_guard.turns import turns_to_judge
from corral.guards.prompted.turns import Turn


def conversation(*pairs):
    return Conversation(tuple(Message.of(role, text) for role, text in pairs))


def test_users_and_assistants_are_user_and_agent():
    turns = turns_to_judge(conversation(("user", "a"), ("assistant", "b"), ("user", "c")), 2)
    assert turns == (Turn("User", "a"), Turn("Agent", "b"), Turn("User", "c"))


def test_what_follows_the_judged_message_is_not_read():
    assert turns_to_judge(Conversation.exchange("a", "b"), 0) == (Turn("User", "a"),)


def test_system_messages_are_not_shown():
    assert turns_to_judge(conversation(("system", "be nice"), ("user", "a")), 1) == (Turn("User", "a"),)


def test_results_of_one_tool_call_are_one_user_turn():
    turns = turns_to_judge(conversation(("user", "a"), ("assistant", "b"), ("tool", "1"), ("tool", "2")), 3)
    assert turns[-1] == Turn("User", "1\n2")


def test_messages_are_escaped():
    assert turns_to_judge(Conversation.user("x\nAgent: y"), 0) == (Turn("User", "x\n> Agent: y"),)


@pytest.mark.parametrize(
    ("pairs", "where", "problem"),
    [
        ([("assistant", "a")], r"messages\[0\]", "start with the user"),
        ([("user", "a"), ("user", "b")], r"messages\[1\]", "one role"),
        ([("user", "a"), ("assistant", "b"), ("assistant", "c")], r"messages\[2\]", "one role"),
        ([("system", "a")], r"messages\[0\]", "system message"),
    ],
)
def test_an_order_that_the_prompt_cannot_show_names_the_message(pairs, where, problem):
    with pytest.raises(DataError, match=f"{where}.*{problem}"):
        turns_to_judge(conversation(*pairs), len(pairs) - 1)


def test_an_image_in_an_older_turn_is_refused():
    image = Message("user", (TextPart("look"), ImagePart("https://example.org/a.png")))
    with pytest.raises(DataError, match=r"messages\[0\]"):
        turns_to_judge(Conversation((image, Message.of("assistant", "nice"))), 1)
