"""Ordinary chats for guards whose prompts show User and Agent by turns.

Those guards were trained on such turns alone and refuse anything else (``turns``). A gateway cannot: chats open with
the assistant, have several messages of one speaker in a row, and system messages that have to be judged like any other.
So what is asked of such a guard is brought into turns first. Nothing of the judged message is left out.
"""

from __future__ import annotations

from dataclasses import replace

from corral.data.messages import Conversation, Message, Role
from corral.guards.base import Guard
from corral.guards.composition.parts import guards_within
from corral.guards.prompted.turns import UNSHOWN


def reads_turns_only(guard: Guard) -> bool:
    """Whether the guard, or one within it, refuses chats that are not User and Agent by turns."""
    return any(getattr(each, "alternates", False) for each in (guard, *(part for _, part in guards_within(guard))))


def alternating(conversation: Conversation) -> Conversation:
    """The conversation as user and assistant by turns, the user first, its last message whole within the last turn.

    Messages of one speaker in a row become one turn; a tool's result is the user's, as in ``conversation_turns``. Of
    system and developer messages only a judged one is shown, as the user's. A reply that answers nothing answers an
    empty request.
    """
    *before, judged = conversation.messages
    turns: list[Message] = []
    for message in (*(each for each in before if each.role not in UNSHOWN), judged):
        role: Role = "assistant" if message.role == "assistant" else "user"
        if not turns and role == "assistant":
            turns.append(Message.of("user", ""))
        joined = turns.pop() if turns and turns[-1].role == role else Message(role, ())
        turns.append(Message(role, (*joined.content, *message.content), (*joined.tool_calls, *message.tool_calls)))
    return replace(conversation, messages=tuple(turns))
