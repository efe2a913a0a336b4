from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.evals.reporting.charts import (
    PlacedPoint,
    Point,
    nice_axis,
    ratio_axis,
    scatter,
    share_axis,
    strip,
    strip_axis,
)

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


def parsed(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)


def percents(markup: str, tag: str, name: str) -> list[float]:
    return [float(node.attrib[name].removesuffix("%")) for node in parsed(markup).iter(tag)]


@given(st.lists(FINITE, min_size=1, max_size=6), st.booleans())
def test_an_axis_holds_its_values_and_few_round_ticks(values: list[float], zero: bool) -> None:
    axis = nice_axis(values, zero=zero)
    assert axis.low <= min(values) + 1e-6 * (axis.high - axis.low)
    assert axis.high >= max(values) - 1e-6 * (axis.high - axis.low)
    assert 2 <= len(axis.ticks) <= 8
    assert len(set(axis.labels)) == len(axis.labels) == len(axis.ticks)
    assert not zero or axis.low <= 0.0 <= axis.high


def test_ticks_are_labelled_in_percent_with_a_true_minus() -> None:
    axis = nice_axis([-0.1, 0.1], scale=100.0, suffix=" %")
    assert axis.labels == ("−10 %", "−5 %", "0 %", "5 %", "10 %")


def test_a_dot_stands_where_its_value_is_and_its_bar_spans_the_interval() -> None:
    drawn = strip([Point(0.5, 0.25, 0.75)], share_axis())
    [dot] = percents(drawn, "circle", "cx")
    bar = next(node for node in parsed(drawn).iter("line") if "interval" in node.attrib["class"])
    assert dot == pytest.approx(50.0)
    low, high = (float(bar.attrib[end].removesuffix("%")) for end in ("x1", "x2"))
    assert (low + high) / 2 == pytest.approx(50.0)
    assert 25 < low < 30


@given(FINITE)
def test_nothing_is_drawn_outside_the_strip(value: float) -> None:
    drawn = strip([Point(value, value - 1, value + 1)], share_axis(), reference=2.0)
    for name in ("x1", "x2"):
        assert all(0 <= place <= 100 for place in percents(drawn, "line", name))


def test_a_missing_value_leaves_its_lane_empty() -> None:
    drawn = strip([Point(None), Point(0.2)], share_axis())
    assert len(list(parsed(drawn).iter("circle"))) == 1


def test_a_strip_tells_a_screen_reader_what_it_shows() -> None:
    drawn = parsed(strip([Point(0.2, label="Accuracy: <20 %")], share_axis()))
    assert drawn.attrib["role"] == "img"
    assert drawn.attrib["aria-label"] == "Accuracy: <20 %"
    title = drawn.find("title")
    assert title is not None and title.text == "Accuracy: <20 %"


def test_labels_stand_under_their_grid_lines() -> None:
    lines = percents(strip([], share_axis()), "line", "x1")
    assert percents(strip_axis(share_axis()), "text", "x") == pytest.approx(lines)


def test_a_scatter_has_title_description_and_intervals_both_ways() -> None:
    point = PlacedPoint(Point(0.5, 0.4, 0.6), Point(0.2, 0.1, 0.3), "A", "A: 50 %, 20 %")
    drawn = parsed(scatter([point], share_axis("x"), share_axis("y"), title="T", description="D"))
    assert [node.text for node in drawn.iter("desc")] == ["D"]
    assert "T" in [node.text for node in drawn.iter("title")]
    assert len([node for node in drawn.iter("line") if "interval" in node.attrib["class"]]) == 2


def test_a_turned_axis_puts_low_values_up() -> None:
    def height(reversed_: bool) -> float:
        point = PlacedPoint(Point(0.5), Point(0.9), "A", "")
        drawn = scatter([point], share_axis(), share_axis(reversed_=reversed_), title="", description="")
        return float(re.findall(r'cy="([\d.]+)"', drawn)[0])

    assert height(reversed_=True) > height(reversed_=False)


@given(st.lists(st.floats(-0.999, 1e6), min_size=1, max_size=5))
def test_relative_changes_fit_their_axis_and_no_change_is_on_it(changes: list[float]) -> None:
    axis = ratio_axis(changes)
    assert 0.0 in [round(tick, 9) for tick in axis.ticks]
    assert axis.low <= min(changes) + 1e-9 and axis.high >= max(changes) - 1e-9
    assert len(set(axis.labels)) == len(axis.labels)


def test_half_as_much_is_as_far_from_no_change_as_twice_as_much() -> None:
    axis = ratio_axis([-0.75, 3.0])
    assert axis.at(0.0) - axis.at(-0.5) == pytest.approx(axis.at(1.0) - axis.at(0.0))
    assert "×2" in axis.labels


def test_small_changes_are_labelled_in_percent() -> None:
    assert ratio_axis([0.05, -0.02]).labels == ("−2 %", "0 %", "2 %", "4 %", "6 %")
