"""Fitting a conversation beside a Llama Guard policy: policy and form of the answer are always whole."""

from __future__ import annotations

from collections.abc import Sequence

from corral.guards.llama_guard.grammar import format_verdict
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.guards.prompted.fitting import FittedTurns, TurnFitter
from corral.guards.prompted.framing import framed
from corral.guards.prompted.meters import Meter
from corral.guards.prompted.turns import Turn


class Fitter:
    """Cuts conversations to what fits beside a policy.

    Args:
        policy: the policy.
        meter: counts tokens.
        frame: name of the frame around prompts.
        window: tokens that the model may read at once, answer included.
        overlap: tokens of the judged message that windows share; ``None`` for an eighth of the room for turns.

    Raises:
        ConfigError: the policy leaves no room for a message, or the overlap none for its windows to move on.
    """

    def __init__(
        self, policy: PolicyPrompt, meter: Meter, *, frame: str, window: int, overlap: int | None = None
    ) -> None:
        self.answer_tokens = len(meter.spans("\n\n" + format_verdict(policy.codes))) + 1
        self._turns = TurnFitter(
            meter,
            window=window,
            fixed=meter.length(framed(policy.render([Turn("Agent", "")]), frame)) + self.answer_tokens,
            turn_cost=len(meter.spans("\n\nAgent: ")),
            overlap=overlap,
            hint="Use a larger window if the model has one, fewer categories, or their names only.",
        )

    def fit(self, turns: Sequence[Turn]) -> FittedTurns:
        """Windows over the last turn, each behind as much of the turns before it as fits."""
        return self._turns.fit(turns)
