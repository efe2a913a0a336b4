"""What Latent Guard says beyond what every guard says: both beliefs, and the state they make."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from corral.guards.base import Verdict
from corral.guards.classifier import Scores


class LatentState(StrEnum):
    """What the model believes of the prompt against what it is about to do.

    ``JAILBROKEN`` is the alarm: it takes the prompt for harmful and is about to comply.
    """

    REFUSES_HARM = "believed_harmful_refuses"
    JAILBROKEN = "believed_harmful_complies"
    OVER_REFUSAL = "believed_harmless_refuses"
    NEITHER = "believed_harmless_complies"

    @classmethod
    def of(cls, *, harmful: bool, refuses: bool) -> LatentState:
        """The state of the two beliefs."""
        if harmful:
            return cls.REFUSES_HARM if refuses else cls.JAILBROKEN
        return cls.OVER_REFUSAL if refuses else cls.NEITHER


@dataclass(frozen=True, slots=True)
class LatentScores(Scores):
    """Scores with the raw beliefs behind them."""

    delta_harm: float = 0.0
    delta_refuse: float = 0.0
    p_refuses: float = 0.0


@dataclass(frozen=True, slots=True)
class LatentVerdict(Verdict):
    """A verdict with both beliefs.

    ``p_harm`` is the belief in harm, calibrated. ``p_refusal`` stays ``None``: it is about replies, and there is none
    yet.

    Attributes:
        p_refuses: calibrated probability that the model is about to refuse; ``None`` unless the status is ok.
        delta_harm: Delta_harm, the largest over user turns and windows; ``None`` unless the status is ok.
        delta_refuse: Delta_refuse at the end of the prompt.
        state: what the two make, at the calibrated thresholds.
    """

    p_refuses: float | None = None
    delta_harm: float | None = None
    delta_refuse: float | None = None
    state: LatentState | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, keys as in the attribute lists."""
        # Without super(): a dataclass with slots is a second class, which super() of Python 3.11 does not know.
        return Verdict.to_json(self) | {
            "p_refuses": self.p_refuses,
            "delta_harm": self.delta_harm,
            "delta_refuse": self.delta_refuse,
            "state": None if self.state is None else self.state.value,
        }
