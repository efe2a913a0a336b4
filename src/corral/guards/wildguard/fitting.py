"""Fitting an exchange beside WildGuard's instruction, which is always whole."""

from __future__ import annotations

from corral.guards.prompted.exchanges import Exchange, ExchangeFitter
from corral.guards.prompted.fitting import TurnFitter
from corral.guards.prompted.framing import framed
from corral.guards.prompted.meters import Meter
from corral.guards.prompted.turns import Turn
from corral.guards.wildguard.escaping import EARLIER_ASSISTANT, escape
from corral.guards.wildguard.prompts import render


def wildguard_fitter(
    meter: Meter, *, frame: str, window: int, answer_tokens: int, overlap: int | None = None
) -> ExchangeFitter:
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
    bare = render(Exchange("", "", (Turn("User", ""),)))
    turns = TurnFitter(
        meter,
        window=window,
        fixed=meter.length(framed(bare, frame)) + answer_tokens,
        turn_cost=len(meter.spans(f"\n\n{EARLIER_ASSISTANT}:\n")),
        overlap=overlap,
        hint="Use a larger window if the model has one.",
    )
    return ExchangeFitter(turns, escape)
