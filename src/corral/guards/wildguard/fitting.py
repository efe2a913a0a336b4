"""Fitting an exchange into a model's context without cutting what is judged.

Request and reply stand in one prompt wherever both fit it whole, with as many earlier turns as there is room for. Else
each is read on its own: the request in windows without a reply, the reply in windows behind the end of the request. So
every token of either is judged in some prompt, which always has the whole instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from corral.data.messages import Target
from corral.guards.prompted.fitting import TurnFitter
from corral.guards.prompted.framing import framed
from corral.guards.prompted.meters import Meter
from corral.guards.prompted.turns import Turn
from corral.guards.wildguard.escaping import EARLIER_ASSISTANT, escape
from corral.guards.wildguard.prompts import Exchange, render


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
    """Cuts exchanges to what fits beside the instruction.

    Args:
        meter: counts tokens.
        frame: name of the frame around prompts.
        window: tokens that the model may read at once, answer included.
        answer_tokens: tokens kept for the answer.
        overlap: tokens of a long message that windows share; ``None`` for an eighth of the room for turns.

    Raises:
        ConfigError: the instruction leaves no room for a message, or the overlap none for its windows to move on.
    """

    def __init__(
        self, meter: Meter, *, frame: str, window: int, answer_tokens: int, overlap: int | None = None
    ) -> None:
        bare = render(Exchange("", "", (Turn("User", ""),)))
        self._turns = TurnFitter(
            meter,
            window=window,
            fixed=meter.length(framed(bare, frame)) + answer_tokens,
            turn_cost=len(meter.spans(f"\n\n{EARLIER_ASSISTANT}:\n")),
            overlap=overlap,
            hint="Use a larger window if the model has one.",
        )

    def fit(self, exchange: Exchange) -> dict[Target, FittedExchange]:
        """What is read to judge the request and, if there is one, the reply."""
        escaped = [Turn(turn.role, escape(turn.text)) for turn in (*exchange.context, Turn("User", exchange.prompt))]
        if exchange.response is None:
            return {"prompt": self._request(escaped)}
        replied = [*escaped, Turn("Agent", escape(exchange.response))]
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
