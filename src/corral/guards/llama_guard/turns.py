"""Turns as a Llama Guard prompt shows them."""

from __future__ import annotations

from corral.data.messages import Conversation
from corral.guards.llama_guard.escaping import escape
from corral.guards.prompted.turns import Turn, conversation_turns


def turns_to_judge(conversation: Conversation, index: int) -> tuple[Turn, ...]:
    """The turns up to message ``index``, which comes last, with their texts escaped.

    Raises:
        DataError: see ``conversation_turns``.
    """
    return tuple(Turn(turn.role, escape(turn.text)) for turn in conversation_turns(conversation, index))
