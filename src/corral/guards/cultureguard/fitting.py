"""Fitting an exchange beside a list of categories; the list and the form of the answer are always whole."""

from __future__ import annotations

from corral.guards.cultureguard.escaping import escape
from corral.guards.cultureguard.prompts import CategoryList
from corral.guards.prompted.exchanges import Exchange, ExchangeFitter
from corral.guards.prompted.fitting import TurnFitter
from corral.guards.prompted.framing import framed
from corral.guards.prompted.meters import Meter
from corral.guards.prompted.turns import Turn


def cultureguard_fitter(
    categories: CategoryList,
    meter: Meter,
    *,
    frame: str,
    window: int,
    answer_tokens: int,
    overlap: int | None = None,
) -> ExchangeFitter:
    """Cuts exchanges to what fits beside the categories.

    Args:
        categories: in the prompt.
        meter: counts tokens.
        frame: name of the frame around prompts.
        window: tokens that the model may read at once, answer included.
        answer_tokens: tokens kept for the answer.
        overlap: tokens of a long message that windows share; ``None`` for an eighth of the room for turns.

    Raises:
        ConfigError: the categories leave no room for a message, or the overlap none for its windows to move on.
    """
    bare = categories.render(Exchange("", "", (Turn("User", ""),)))
    turns = TurnFitter(
        meter,
        window=window,
        fixed=meter.length(framed(bare, frame)) + answer_tokens,
        turn_cost=len(meter.spans("\n\nresponse: agent: ")),
        overlap=overlap,
        hint="Use a larger window if the model has one, fewer categories, or their names only.",
    )
    return ExchangeFitter(turns, escape)
