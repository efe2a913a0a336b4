"""Conversations as a guard reads them: turns of User and Agent by turns, the last one judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from corral.core.errors import DataError
from corral.data.messages import Conversation, Message, TextPart

TurnRole = Literal["User", "Agent"]

_ROLES: Final[dict[str, TurnRole]] = {"user": "User", "tool": "User", "assistant": "Agent"}
# What an operator tells the assistant is not part of what is judged, and raises false flags when shown as if it were.
UNSHOWN: Final = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn."""

    role: TurnRole
    text: str


def conversation_turns(conversation: Conversation, index: int) -> tuple[Turn, ...]:
    """The turns up to message ``index``, which comes last; texts as they are.

    System and developer messages are left out. A tool's result is what the agent is given, so it is a User turn;
    several results of one call are one turn.

    Raises:
        DataError: the judged message is a system message, a part is not text, the conversation does not start with
            the user, or two turns in a row have one role; ``where`` names the message.
    """
    turns: list[Turn] = []
    previous: Message | None = None
    for position, message in enumerate(conversation.messages[: index + 1]):
        where = f"messages[{position}]"
        if message.role in UNSHOWN:
            if position == index:
                raise DataError(f"a {message.role} message is not a turn that can be judged", where=where)
            continue
        if any(not isinstance(part, TextPart) for part in message.content):
            raise DataError("content other than text, which this guard does not read", where=where)
        turn = Turn(_ROLES[message.role], message.text)
        if previous is not None and message.role == previous.role == "tool":
            turns[-1] = Turn("User", f"{turns[-1].text}\n{turn.text}")
        else:
            _check_order(turns, turn, where)
            turns.append(turn)
        previous = message
    return tuple(turns)


def _check_order(before: list[Turn], turn: Turn, where: str) -> None:
    expected: TurnRole = "Agent" if before and before[-1].role == "User" else "User"
    if turn.role != expected:
        problem = "two turns of one role in a row" if before else "the conversation does not start with the user"
        raise DataError(f"{problem}: expected {expected}, got {turn.role}", where=where)
