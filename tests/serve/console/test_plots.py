"""Plots of the console."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from corral.serve.console.plots import lines


def drawn(values: list[float | None]) -> tuple[int, int]:
    """Lines and dots."""
    labels = [str(i) for i in range(len(values))]
    plot = lines(labels, [("block", values)], title="Blocked", unit="%")
    return plot.count("<polyline"), plot.count("<circle")


def test_a_missing_value_leaves_a_gap() -> None:
    assert drawn([1.0, 2.0, None, 3.0, 4.0]) == (2, 0)


def test_a_value_between_gaps_is_a_dot() -> None:
    assert drawn([None, 2.0, None]) == (0, 1)


def test_no_value_draws_nothing() -> None:
    assert drawn([None, None]) == (0, 0)
