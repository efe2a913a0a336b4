"""Bounds: on, under and over, and a value that is no number."""

from __future__ import annotations

import math

import pytest

from corral.bench.checks import Check, at_least, at_most, below, between, failures


@pytest.mark.parametrize(
    ("check", "ok"),
    [
        (at_least(20.0, 20), True),
        (at_least(19.99, 20), False),
        (at_most(0.02, 0.02), True),
        (at_most(0.021, 0.02), False),
        (below(999.9, 1000), True),
        (below(1000.0, 1000), False),
        (between(800, 800, 950), True),
        (between(951, 800, 950), False),
    ],
)
def test_a_bound_is_met_on_its_side(check: Check, ok: bool) -> None:
    assert check.ok is ok


@pytest.mark.parametrize("check", [at_least(math.nan, 1), at_most(math.nan, 1), below(math.nan, 1)])
def test_what_is_no_number_meets_no_bound(check: Check) -> None:
    assert not check.ok


def test_what_was_not_measured_is_open() -> None:
    check = at_least(None, 20)
    assert (check.value, check.ok, check.bound) == (None, None, ">= 20")


def test_only_failures_are_told_with_value_and_bound() -> None:
    checks = {"fast": at_least(30.0, 20), "close": at_most(0.0312, 0.02), "absent": at_least(None, 1)}
    assert failures(checks) == ["close is 0.0312, expected <= 0.02"]
