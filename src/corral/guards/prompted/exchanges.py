"""A request and the reply to it, and fitting both into a model's context without cutting what is judged.

Request and reply stand in one prompt wherever both fit it whole, with as many earlier turns as there is room for. Else
each is read on its own: the request in windows without a reply, the reply in windows behind the end of the request. So
every token of either is judged in some prompt, which always has the whole instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from corral.core.errors import DataError
from corral.data.messages import Conversation, Target
from corral.guards.prompted.fitting import TurnFitter
from corral.guards.prompted.turns import Turn, conversation_turns


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and the reply to it.

    Attributes:
        prompt: the request.
        response: the reply; ``None`` when there is none.
        context: the turns before the request, oldest first.
    """

    prompt: str
    response: str | None = None
    context: tuple[Turn, ...] = ()


def exchange_of(conversation: Conversation, *, reply: bool = True) -> Exchange:
    """The last request of a conversation, with the reply if the assistant spoke last.

    Args:
        conversation: the conversation.
        reply: false leaves a reply out. One that is blank is no reply.

    Raises:
        DataError: there is no request, or a system message in its place, a part is not text, the conversation does
            not start with the user, or two turns in a row have one role; ``where`` names the message.
    """
    request, last = conversation.judged_index("prompt"), conversation.judged_index("response")
    if request is None:
        raise DataError("the conversation has no request", where="messages")
    turns = conversation_turns(conversation, request if last is None or not reply else last)
    if turns[-1].role == "User":
        *context, asked = turns
        return Exchange(asked.text, None, tuple(context))
    *context, asked, answer = turns
    return Exchange(asked.text, answer.text if answer.text.strip() else None, tuple(context))


@dataclass(frozen=True, slots=True)
class FittedExchange:
    """What is read to judge one message.

    Attributes:
        windows: an exchange a prompt; the same for request and reply when both fit one.
        context_dropped: tokens of older turns that are in no prompt.
    """

    windows: tuple[Exchange, ...]
    context_dropped: int


class ExchangeFitter:
    """Cuts exchanges to what fits beside a guard's instruction.

    Args:
        turns: knows the room that the instruction leaves.
        escape: makes a text harmless to the prompt that quotes it; what is counted and cut is escaped text.
    """

    def __init__(self, turns: TurnFitter, escape: Callable[[str], str]) -> None:
        self._turns = turns
        self._escape = escape

    def fit(self, exchange: Exchange) -> dict[Target, FittedExchange]:
        """What is read to judge the request and, if there is one, the reply."""
        asked = (*exchange.context, Turn("User", exchange.prompt))
        escaped = [Turn(turn.role, self._escape(turn.text)) for turn in asked]
        if exchange.response is None:
            return {"prompt": self._request(escaped)}
        replied = [*escaped, Turn("Agent", self._escape(exchange.response))]
        whole = self._turns.fit_whole(replied, judged=2)
        if whole is not None:
            both = FittedExchange(tuple(map(_replied, whole.windows)), whole.context_dropped)
            return {"prompt": both, "response": both}
        fitted = self._turns.fit(replied)
        reply = FittedExchange(tuple(map(_replied, fitted.windows)), fitted.context_dropped)
        return {"prompt": self._request(escaped), "response": reply}

    def _request(self, turns: Sequence[Turn]) -> FittedExchange:
        fitted = self._turns.fit(turns)
        windows = tuple(Exchange(window[-1].text, None, window[:-1]) for window in fitted.windows)
        return FittedExchange(windows, fitted.context_dropped)


def _replied(turns: tuple[Turn, ...]) -> Exchange:
    """An exchange whose reply comes last; the request may have been left out for want of room."""
    *before, reply = turns
    request = before.pop().text if before else ""
    return Exchange(request, reply.text, tuple(before))
