"""Charts in SVG, small enough to be read: strips of points with intervals, and a scatter with intervals both ways.

A strip is one row of a chart and stands in a cell of an HTML table, so that every chart is a table that can be read
aloud, copied and printed: labels and numbers are HTML, which wraps and keeps its size in a narrow window, and only the
geometry is SVG, laid out in percent of the cell. Colours come from the page (``page.css``), which knows both themes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from corral.evals.reporting.markup import Markup, element, join

SERIES: Final = 6
"""How many series the page has colours for; later ones share the last."""

_INSET: Final = 2.5  # percent of a strip on either side, so that dots at its ends are whole
_LANE: Final = 40  # as high as the two lines of text beside it
_DOT: Final = 4.5
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
_FACTORS: Final = ([1.5, 2.0, 3.0, 4.0], [2.0, 5.0, 10.0, 20.0], [10.0, 100.0, 1e3, 1e4], [1e3, 1e6, 1e9])
_LEAST_FACTOR: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale.

    Attributes:
        low: value at the left or bottom end.
        high: value at the other end; larger than ``low``.
        ticks: values with a grid line.
        labels: what is printed at each tick.
        title: what is drawn along it.
        reversed_: the low end is at the right, or at the top.
        relative: values are relative changes, which stand where their factor 1 + value does on a logarithmic scale, so
            that half as much is as far from no change as twice as much.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    title: str = ""
    reversed_: bool = False
    relative: bool = False

    def at(self, value: float) -> float:
        """Place of a value in [0, 1], clipped to the axis."""
        low, high, clipped = (self._scaled(each) for each in (self.low, self.high, self._clipped(value)))
        share = (clipped - low) / (high - low)
        return 1.0 - share if self.reversed_ else share

    def _clipped(self, value: float) -> float:
        return min(self.high, max(self.low, value))

    def _scaled(self, value: float) -> float:
        return math.log1p(value) if self.relative else value


@dataclass(frozen=True, slots=True)
class Point:
    """A value with its interval.

    Attributes:
        value: where the dot is; ``None`` draws nothing.
        low: lower end of the interval, ``None`` when there is none.
        high: upper end.
        series: number of its colour, from 0.
        hollow: an open dot, for what others are compared with.
        label: what a pointer or a screen reader is told.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    series: int = 0
    hollow: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True)
class PlacedPoint:
    """A point of a scatter: one measure along, one up; ``mark`` is the character that the legend explains."""

    x: Point
    y: Point
    mark: str
    label: str


def share_axis(title: str = "", *, reversed_: bool = False) -> Axis:
    """From 0 to 100 %."""
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0)
    return Axis(0.0, 1.0, ticks, tuple(f"{100 * tick:.0f} %" for tick in ticks), title, reversed_)


def nice_axis(
    values: Sequence[float],
    *,
    zero: bool = False,
    title: str = "",
    scale: float = 1.0,
    suffix: str = "",
    reversed_: bool = False,
) -> Axis:
    """Round ends around the values, and three to six ticks.

    Args:
        values: what must fit; at least one.
        zero: 0 is on the axis.
        title: see ``Axis``.
        scale: what values are multiplied by in labels, 100 for percent.
        suffix: behind the number of each label.
        reversed_: see ``Axis``.
    """
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-12:
        reach = abs(high) / 10 or 0.01
        low, high = low - reach, high + reach
    step = _step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(k * step for k in range(first, last + 1))
    decimals = max(0, -math.floor(math.log10(step * scale) + 1e-9)) if step * scale < 1 else int(step * scale % 1 != 0)
    labels = tuple(f"{scale * tick:.{decimals}f}{suffix}".replace("-", "\N{MINUS SIGN}") for tick in ticks)
    return Axis(ticks[0], ticks[-1], ticks, labels, title, reversed_)


def ratio_axis(changes: Sequence[float], title: str = "") -> Axis:
    """A scale of relative changes with no change on it: in percent for small ones, in factors for large ones.

    Args:
        changes: other / baseline - 1, so above -1.
        title: see ``Axis``.
    """
    low, high = min(0.0, *changes), max(0.0, *changes)
    if (1 + high) / max(1 + low, _LEAST_FACTOR) < 3:
        axis = nice_axis([max(low, _LEAST_FACTOR - 1), high], zero=True, title=title, scale=100.0, suffix=" %")
        if axis.low > -1:
            return replace(axis, relative=True)
    above = _factors(1 + high)
    below = [1 / factor for factor in reversed(_factors(1 / max(1 + low, _LEAST_FACTOR)))]
    factors = [*below, 1.0, *above]
    labels = tuple(f"\N{MULTIPLICATION SIGN}{factor:.3g}" for factor in factors)
    ticks = tuple(factor - 1 for factor in factors)
    return Axis(ticks[0], ticks[-1], ticks, labels, title, relative=True)


def strip(points: Sequence[Point], axis: Axis, *, reference: float | None = None) -> Markup:
    """One row: a lane a point, grid lines, and a dashed mark at ``reference`` (chance, or no difference)."""
    height = _LANE * max(1, len(points)) + 8
    grid = [_upright(axis.at(tick), height, "grid") for tick in axis.ticks]
    marks = [_upright(axis.at(reference), height, "reference")] if reference is not None else []
    drawn = [_lane(point, axis, 4 + _LANE * (i + 0.5)) for i, point in enumerate(points)]
    label = "; ".join(point.label for point in points if point.label)
    title = element("title", label) if label else None
    return element(
        "svg", title, *grid, *marks, *drawn, class_="strip", width="100%", height=height, role="img", aria_label=label
    )


def strip_axis(axis: Axis) -> Markup:
    """The labels of the ticks, for the head of the column of strips."""
    labels = [
        element("text", label, x=_percent(axis.at(tick)), y=12, text_anchor="middle", class_="tick")
        for tick, label in zip(axis.ticks, axis.labels, strict=True)
    ]
    return element("svg", *labels, class_="axis", width="100%", height=16, aria_hidden="true")


def legend(names: Iterable[tuple[int, str]], *, hollow: int | None = None) -> Markup:
    """Names beside their dots.

    Args:
        names: number of the series and its name.
        hollow: the series that is drawn with open dots.
    """
    items = [
        element("li", point_mark(Point(0.0, series=number, hollow=number == hollow)), name) for number, name in names
    ]
    return element("ul", *items, class_="legend")


def point_mark(point: Point) -> Markup:
    """The dot of a point by itself, to stand beside text."""
    return element("svg", _dot(point, "6", 6), class_="mark-of", width=12, height=12, aria_hidden="true")


def scatter(points: Sequence[PlacedPoint], x: Axis, y: Axis, *, title: str, description: str) -> Markup:
    """Points with intervals both ways, in a frame of fixed proportions that shrinks with the window."""
    width, height, left, right, top, bottom = 420, 330, 62, 16, 14, 52

    def across(value: float) -> float:
        return left + x.at(value) * (width - left - right)

    def up(value: float) -> float:
        return height - bottom - y.at(value) * (height - top - bottom)

    frame = []
    for tick, label in zip(x.ticks, x.labels, strict=True):
        frame.append(element("line", x1=across(tick), x2=across(tick), y1=top, y2=height - bottom, class_="grid"))
        at = height - bottom + 20
        frame.append(element("text", label, x=across(tick), y=at, text_anchor="middle", class_="tick"))
    for tick, label in zip(y.ticks, y.labels, strict=True):
        frame.append(element("line", x1=left, x2=width - right, y1=up(tick), y2=up(tick), class_="grid"))
        frame.append(element("text", label, x=left - 7, y=up(tick) + 4, text_anchor="end", class_="tick"))
    middle = (left + width - right) / 2
    frame.append(element("text", x.title, x=middle, y=height - 8, text_anchor="middle", class_="axis-title"))
    turn = f"translate(13 {(top + height - bottom) / 2:.1f}) rotate(-90)"
    frame.append(element("text", y.title, transform=turn, text_anchor="middle", class_="axis-title"))
    drawn = [_placed(point, across, up) for point in points]
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *frame,
        *drawn,
        viewBox=f"0 0 {width} {height}",
        class_="scatter",
        role="img",
        aria_label=f"{title}. {description}",
    )


def _placed(point: PlacedPoint, across: Callable[[float], float], up: Callable[[float], float]) -> Markup | None:
    if point.x.value is None or point.y.value is None:
        return None
    at_x, at_y, colour = across(point.x.value), up(point.y.value), _colour(point.x)
    lines = []
    if point.x.low is not None and point.x.high is not None:
        x1, x2 = across(point.x.low), across(point.x.high)
        lines.append(element("line", x1=x1, x2=x2, y1=at_y, y2=at_y, class_=f"interval s{colour}"))
    if point.y.low is not None and point.y.high is not None:
        y1, y2 = up(point.y.low), up(point.y.high)
        lines.append(element("line", x1=at_x, x2=at_x, y1=y1, y2=y2, class_=f"interval s{colour}"))
    disc = element("circle", cx=at_x, cy=at_y, r=9.0, class_=f"dot s{colour}")
    mark = element("text", point.mark, x=at_x, y=at_y + 4, text_anchor="middle", class_="mark")
    return element("g", element("title", point.label), *lines, disc, mark)


def _lane(point: Point, axis: Axis, y: float) -> Markup | None:
    if point.value is None:
        return None
    line = None
    if point.low is not None and point.high is not None:
        ends = {"x1": _percent(axis.at(point.low)), "x2": _percent(axis.at(point.high))}
        line = element("line", **ends, y1=y, y2=y, class_=f"interval s{_colour(point)}")
    return join(line, _dot(point, _percent(axis.at(point.value)), y))


def _dot(point: Point, x: str, y: float) -> Markup:
    kind = "hollow" if point.hollow else "dot"
    return element("circle", cx=x, cy=y, r=_DOT, class_=f"{kind} s{_colour(point)}")


def _upright(place: float, height: float, kind: str) -> Markup:
    return element("line", x1=_percent(place), x2=_percent(place), y1=0, y2=height, class_=kind)


def _percent(place: float) -> str:
    return f"{_INSET + place * (100 - 2 * _INSET):.3f}%"


def _colour(point: Point) -> int:
    return min(point.series, SERIES - 1)


def _factors(reach: float) -> list[float]:
    """A few round factors above 1, the last at or above ``reach``; none when nothing lies above 1."""
    if reach <= 1:
        return []
    steps = next(steps for steps in _FACTORS if steps[-1] >= reach or steps is _FACTORS[-1])
    return steps[: next((i for i, factor in enumerate(steps) if factor >= reach), len(steps) - 1) + 1]


def _step(rough: float) -> float:
    """The next round number at or above."""
    size = 10.0 ** math.floor(math.log10(rough))
    return next(size * step for step in _STEPS if size * step >= rough * (1 - 1e-9))
