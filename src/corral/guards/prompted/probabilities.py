"""Probabilities from the log-probabilities of a few labels.

For labels a and b, share(a) = exp(l_a) / (exp(l_a) + exp(l_b)); the mass of labels is the sum of their probabilities.
No label may begin another, so the mass is at most 1; where it is small the model was about to write something else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from corral.core.errors import EngineError

_ROUNDING: Final = 1e-3


def require_logprobs(*logprobs: float) -> None:
    """Refuse numbers that cannot be log-probabilities of labels that exclude each other.

    Raises:
        EngineError: NaN, one above 0, or probabilities that sum to more than 1.
    """
    # Written so that a NaN, which compares false, fails too.
    if not (all(value <= _ROUNDING for value in logprobs) and _sum(logprobs) <= 1 + _ROUNDING):
        raise EngineError("the engine's values for the labels are not log-probabilities")


def share(log_this: float, log_other: float) -> float | None:
    """Share of one label in two, in [0, 1]; ``None`` when both are impossible."""
    if log_this == log_other == -math.inf:
        return None
    odds = math.exp(-abs(log_this - log_other))
    return 1 / (1 + odds) if log_this >= log_other else odds / (1 + odds)


def mass(*logprobs: float) -> float:
    """Probability of the labels together, in [0, 1]."""
    return min(1.0, _sum(logprobs))


def _sum(logprobs: tuple[float, ...]) -> float:
    return math.fsum(map(math.exp, logprobs))


@dataclass(frozen=True, slots=True)
class LabelScore:
    """Log-probabilities, in nats, of the labels ``safe`` and ``unsafe`` at one place of an answer.

    Raises:
        EngineError: NaN, or probabilities that sum to more than 1.
    """

    log_safe: float
    log_unsafe: float

    def __post_init__(self) -> None:
        require_logprobs(self.log_safe, self.log_unsafe)

    @property
    def p_unsafe(self) -> float | None:
        """Share of ``unsafe`` in the two labels; ``None`` when both are impossible."""
        return share(self.log_unsafe, self.log_safe)

    @property
    def raw(self) -> float:
        """Probability of ``unsafe`` among everything that the model might write."""
        return mass(self.log_unsafe)

    @property
    def mass(self) -> float:
        """Probability of the two labels together, in [0, 1]."""
        return mass(self.log_safe, self.log_unsafe)
