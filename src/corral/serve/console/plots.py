"""Plots as inline SVG: no script, no library, colours by class so that both themes fit."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Final

WIDTH: Final = 480
HEIGHT: Final = 120
_TOP: Final = 20
_DOT: Final = 3


def stacked_bars(labels: Sequence[str], series: Sequence[tuple[str, Sequence[int]]], *, title: str) -> str:
    """Bars over time, one colour a series, each series with as many values as there are labels."""
    totals = [sum(values[i] for _, values in series) for i in range(len(labels))]
    top = max([*totals, 1])
    step = WIDTH / max(1, len(labels))
    bars = []
    for i, label in enumerate(labels):
        base = float(HEIGHT)
        for name, values in series:
            if not values[i]:
                continue
            height = (HEIGHT - _TOP) * values[i] / top
            base -= height
            bars.append(
                f'<rect class="s-{escape(name)}" x="{i * step + 1:.1f}" y="{base:.1f}" width="{max(1.0, step - 2):.1f}"'
                f' height="{height:.1f}"><title>{escape(label)}: {values[i]} {escape(name)}</title></rect>'
            )
    return _frame(title, bars, str(top), labels)


def lines(labels: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]], *, title: str, unit: str) -> str:
    """Lines over time; a missing value leaves a gap, and a value between two gaps is a dot."""
    known = [value for _, values in series for value in values if value is not None]
    top = max([*known, 1e-9])
    step = (WIDTH - 2 * _DOT) / max(1, len(labels) - 1)
    drawn = []
    for name, values in series:
        kind, called = f'class="l-{escape(name)}"', f"<title>{escape(name)}</title>"
        points = [
            None if value is None else (_DOT + i * step, HEIGHT - (HEIGHT - _TOP) * value / top)
            for i, value in enumerate(values)
        ]
        for stretch in _stretches(points):
            if len(stretch) == 1:
                x, y = stretch[0]
                drawn.append(f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="{_DOT}">{called}</circle>')
            else:
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y in stretch)
                drawn.append(f'<polyline {kind} points="{path}">{called}</polyline>')
    return _frame(title, drawn, f"{top:.3g} {unit}" if known else "", labels)


def _stretches(points: Sequence[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    """Runs of points without a gap."""
    return [
        [point for point in run if point is not None]
        for known, run in groupby(points, key=lambda point: point is not None)
        if known
    ]


def ranking(counts: Sequence[tuple[str, int]], *, title: str) -> str:
    """Horizontal bars, the largest first."""
    top = max([count for _, count in counts] or [1])
    row = 24
    height = max(row, row * len(counts))
    bars = [
        f'<rect class="s-count" x="0" y="{i * row + 3}" width="{300 * count / top:.1f}" height="14"></rect>'
        f'<text x="{300 * count / top + 6:.1f}" y="{i * row + 15}">{escape(name)} · {count}</text>'
        for i, (name, count) in enumerate(counts)
    ]
    said = ", ".join(f"{name} {count}" for name, count in counts) or "none"
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}: {escape(said)}">'
        f"{''.join(bars)}</svg>"
    )


def _frame(title: str, marks: Sequence[str], top: str, labels: Sequence[str]) -> str:
    ends = (labels[0], labels[-1]) if labels else ("", "")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 20}" role="img" aria-label="{escape(title)}, highest {escape(top)}">'
        f'<line class="axis" x1="0" y1="{HEIGHT}" x2="{WIDTH}" y2="{HEIGHT}"></line>{"".join(marks)}'
        f'<text x="0" y="13">{escape(top)}</text><text x="0" y="{HEIGHT + 17}">{escape(ends[0])}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 17}" text-anchor="end">{escape(ends[1])}</text></svg>'
    )
