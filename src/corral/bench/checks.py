"""Bounds that a benchmark is held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """A measured value and the bound that it was held against.

    Attributes:
        value: as measured; ``None`` where it was not.
        bound: as a reader would write it, such as ``>= 20``.
        ok: the value is within it; ``None`` where it was not measured.
    """

    value: float | None
    bound: str
    ok: bool | None


def at_least(value: float | None, bound: float) -> Check:
    """A value that must reach a bound; NaN does not, and what was not measured is open."""
    return Check(value, f">= {bound:g}", None if value is None else value >= bound)


def at_most(value: float, bound: float) -> Check:
    """A value that must not exceed a bound; NaN does."""
    return Check(value, f"<= {bound:g}", value <= bound)


def below(value: float, bound: float) -> Check:
    """A value that must stay under a bound; NaN does not."""
    return Check(value, f"< {bound:g}", value < bound)


def between(value: float, low: float, high: float) -> Check:
    """A value that must lie between two bounds, both included."""
    return Check(value, f"{low:g} to {high:g}", low <= value <= high)


def failures(checks: Mapping[str, Check]) -> list[str]:
    """One sentence for each check that failed; one that was not measured has not."""
    return [
        f"{name} is {check.value:.4g}, expected {check.bound}" for name, check in checks.items() if check.ok is False
    ]
