"""Figures in words: one way to print a value, its interval and what it rests on, for every format."""

from __future__ import annotations

import math
from typing import Final

from corral.evals.tasks.task import Area

AREAS: Final[dict[Area, str]] = {
    "ability": "Ability",
    "safety": "Safety",
    "over_refusal": "Over-refusal",
    "guard": "Guard quality",
    "cost": "Cost",
}
"""Areas in the order of reports."""

NO_INTERVAL: Final = "no interval"
_DIGITS: Final = 4


def value_text(value: float | None, unit: str) -> str:
    """A value with its unit; shares in percent, a dash for none."""
    if value is None:
        return "-"
    shown = signed(value, unit) if unit == "points" else number(value, unit)
    return f"{shown} {'%' if unit == 'share' else unit}".rstrip()


def interval_text(ci95: tuple[float, float] | None, unit: str) -> str:
    """Both ends in brackets, without the unit."""
    if ci95 is None:
        return NO_INTERVAL
    if unit == "points":
        return difference_interval_text(ci95, unit)
    return f"[{number(ci95[0], unit)}, {number(ci95[1], unit)}]"


def difference_text(value: float | None, unit: str) -> str:
    """A difference with its sign; of shares in percentage points."""
    if value is None:
        return "-"
    return f"{signed(value, unit)} {'points' if unit == 'share' else unit}".rstrip()


def difference_interval_text(ci95: tuple[float, float] | None, unit: str) -> str:
    """Both ends of the interval of a difference in brackets, with their signs."""
    return NO_INTERVAL if ci95 is None else f"[{signed(ci95[0], unit)}, {signed(ci95[1], unit)}]"


def relative_text(value: float | None, ci95: tuple[float, float] | None) -> str:
    """A relative change and its interval: in percent, or as a factor from twice as much on."""
    if value is None:
        return "-"
    shown = _times if value >= 1.0 else _percent
    interval = NO_INTERVAL if ci95 is None else f"[{shown(ci95[0])}, {shown(ci95[1])}]"
    return f"{shown(value)}{' %' if value < 1.0 else ''} {interval}"


def _times(change: float) -> str:
    return f"\N{MULTIPLICATION SIGN}{significant(1.0 + change)}"


def _percent(change: float) -> str:
    return signed(change, "share")


def signed(value: float, unit: str) -> str:
    """A number with its sign; a true minus, and no sign for zero."""
    shown = number(abs(value), unit)
    if not float(shown.replace(",", "")):
        return shown
    return f"+{shown}" if value > 0 else f"\N{MINUS SIGN}{shown}"


def number(value: float, unit: str) -> str:
    """Shares and their differences in percent with one decimal, anything else with four significant digits."""
    if unit in {"share", "points"}:
        shown = f"{100 * value:.1f}"
        return "0.0" if shown == "-0.0" else shown.replace("-", "\N{MINUS SIGN}")
    return significant(value).replace("-", "\N{MINUS SIGN}", int(value < 0))


def significant(value: float) -> str:
    """Four significant digits, thousands separated, no exponent in the usual range."""
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if not -5 <= size <= 8:
        return f"{value:.3e}"
    return f"{value:,.{max(0, _DIGITS - 1 - size)}f}"


def full_title(title: str, area: Area, group: str, guard: str) -> str:
    """A measure's title with the guard and the set that it is about."""
    if not guard:
        return title
    if area == "guard":
        return f"{guard} on {group}: {title}"
    return f"{guard}: {title}" if area == "cost" else f"{title}, behind {guard}"


def basis_text(n: int, clusters: int, unscored: int) -> str:
    """What a figure rests on: items, clusters where there are fewer, and items without a score."""
    parts = [f"n = {n:,}"]
    if clusters != n:
        parts.append(f"{clusters:,} clusters")
    if unscored:
        parts.append(f"{unscored:,} unscored")
    return ", ".join(parts)


def direction_text(higher_is_better: bool | None) -> str:
    """Which way is good."""
    return {True: "higher is better", False: "lower is better", None: ""}[higher_is_better]
