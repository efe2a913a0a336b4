"""One answer of a guard that asks in words, over all windows of a message: what the verdict of any such guard shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from corral.guards.base import Status
from corral.guards.calibration import at_half


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """The answer to one question; over several windows the most positive one.

    Attributes:
        status: how it came about.
        flagged: the answer is yes, or unsafe; ``None`` unless ``status`` is ok.
        p: share of that label in the two, as the model gives it; ``None`` when it was not scored, or is not ok.
        mass: probability of all labels together, the smallest over windows; ``None`` when not scored.
        threshold: ``flagged`` is ``p >= threshold``; without scores the model's own word counts.
        detail: why the status is not ok.
    """

    status: Status
    flagged: bool | None = None
    p: float | None = None
    mass: float | None = None
    threshold: float = 0.5
    detail: str | None = None

    @property
    def score(self) -> float | None:
        """The answer as a probability whose operating point is 0.5; 1 or 0 when only the model's word is known."""
        if self.flagged is None or self.p is None:
            return None if self.flagged is None else float(self.flagged)
        return at_half(self.p, self.threshold)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, keys as in the attribute list."""
        return asdict(self) | {"status": self.status.value}


def in_window(number: int, windows: int) -> str:
    """Where a detail is from, to stand after it; "" for a message in one window."""
    return f" (window {number} of {windows})" if windows > 1 else ""
