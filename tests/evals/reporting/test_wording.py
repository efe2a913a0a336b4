from __future__ import annotations

import pytest

from corral.evals.reporting.wording import (
    basis_text,
    difference_interval_text,
    difference_text,
    full_title,
    interval_text,
    relative_text,
    significant,
    value_text,
)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.1234, "share", "12.3 %"),
        (1.0, "share", "100.0 %"),
        (-0.0001, "points", "0.0 points"),
        (-0.05, "points", "−5.0 points"),
        (1.23456, "bits/byte", "1.235 bits/byte"),
        (1234.5, "ms", "1,234 ms"),
        (None, "share", "-"),
    ],
)
def test_a_value_is_printed_in_its_unit(value: float | None, unit: str, shown: str) -> None:
    assert value_text(value, unit) == shown


def test_differences_carry_their_sign_and_shares_become_points() -> None:
    assert difference_text(0.05, "share") == "+5.0 points"
    assert difference_text(-0.25, "bits/byte") == "−0.2500 bits/byte"
    assert difference_text(0.0, "share") == "0.0 points"
    assert difference_interval_text((-0.01, 0.02), "share") == "[−1.0, +2.0]"
    assert relative_text(0.5, (0.25, 0.75)) == "+50.0 % [+25.0, +75.0]"
    assert relative_text(9.0, (7.0, 11.0)) == "×10.00 [×8.000, ×12.00]"


def test_a_withheld_interval_is_said_to_be_missing() -> None:
    assert interval_text(None, "share") == "no interval"
    assert interval_text((0.1, 0.2), "share") == "[10.0, 20.0]"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.00012345, "0.0001234"), (123456.0, "123,456"), (1e-9, "1.000e-09"), (3e12, "3.000e+12")],
)
def test_four_digits_are_kept_at_every_size(value: float, shown: str) -> None:
    assert significant(value) == shown


def test_the_basis_names_clusters_and_unscored_only_where_they_differ() -> None:
    assert basis_text(5, 5, 0) == "n = 5"
    assert basis_text(1200, 7, 2) == "n = 1,200, 7 clusters, 2 unscored"


def test_a_title_says_which_guard_it_is_about() -> None:
    assert full_title("Refuses", "over_refusal", "benign", "") == "Refuses"
    assert full_title("Refuses", "over_refusal", "benign", "g") == "Refuses, behind g"
    assert full_title("AP", "guard", "toxicchat", "g") == "g on toxicchat: AP"
    assert full_title("p50", "cost", "", "g") == "g: p50"
