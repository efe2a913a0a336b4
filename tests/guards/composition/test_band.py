"""The band is the cheapest that agrees enough, or the best that is cheap enough: checked against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import MetricError
from corral.guards.composition.band import fit_band

ROWS = st.lists(st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.booleans()), min_size=1, max_size=25)


def outcome(rows: list[tuple[float, bool]], low: float, high: float) -> tuple[int, int]:
    """Rows inside the band, and rows on which the cascade decides otherwise than the costly guard."""
    inside = sum(low <= p <= high for p, _ in rows)
    apart = sum((p >= 0.5) != flagged for p, flagged in rows if not low <= p <= high)
    return inside, apart


def brute_force(rows: list[tuple[float, bool]]) -> list[tuple[int, int]]:
    ends = [k / 20 for k in range(21)]
    return [outcome(rows, low, high) for low, high in itertools.product(ends, ends) if low <= 0.5 <= high]


@given(ROWS, st.floats(0, 1))
def test_for_an_agreement_no_band_asks_about_fewer_rows(rows: list[tuple[float, bool]], agreement: float) -> None:
    band = fit_band([p for p, _ in rows], [f for _, f in rows], split="dev", agreement=agreement)
    inside, apart = outcome(rows, band.low, band.high)
    allowed = [(i, a) for i, a in brute_force(rows) if a / len(rows) <= 1 - agreement]
    assert (inside, apart) == min(allowed)
    assert (band.share, band.agreement) == (pytest.approx(inside / len(rows)), pytest.approx(1 - apart / len(rows)))


@given(ROWS, st.floats(0, 1))
def test_for_a_share_no_band_agrees_more(rows: list[tuple[float, bool]], share: float) -> None:
    allowed = [(a, i) for i, a in brute_force(rows) if i / len(rows) <= share]
    if not allowed:  # both ends are included, so a score of 0.5 is in every band
        assert any(p == 0.5 for p, _ in rows)
        with pytest.raises(MetricError, match="no band asks about"):
            fit_band([p for p, _ in rows], [f for _, f in rows], split="dev", share=share)
        return
    band = fit_band([p for p, _ in rows], [f for _, f in rows], split="dev", share=share)
    inside, apart = outcome(rows, band.low, band.high)
    assert (apart, inside) == min(allowed)


def test_where_every_band_asks_about_too_many_rows_it_is_told_how_many() -> None:
    scores, flagged = [0.5, 0.5, 0.5, 0.1], [True, True, False, False]
    with pytest.raises(MetricError, match=r"3 of 4 have a score of exactly 0\.5"):
        fit_band(scores, flagged, split="dev", share=0.5)
    assert fit_band(scores, flagged, split="dev", share=0.75).share == 0.75


def test_many_rows_are_thinned_to_quantiles_and_the_promise_still_holds() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(3000)
    flagged = rng.random(3000) < p
    band = fit_band(p, flagged, split="dev", agreement=0.9, guards={"a": "1", "b": "2"})
    inside, apart = outcome(list(zip(p.tolist(), flagged.tolist(), strict=True)), band.low, band.high)
    assert 1 - apart / 3000 >= 0.9
    assert band.share == inside / 3000
    assert (band.n, band.split, band.rule, band.guards) == (3000, "dev", "agreement>=0.9", {"a": "1", "b": "2"})
    assert band.agreement_ci95 is not None
    assert band.agreement_ci95[0] < band.agreement < band.agreement_ci95[1]


@pytest.mark.parametrize(
    ("scores", "flagged", "settings", "message"),
    [
        ([], [], {"agreement": 0.9}, "scores"),
        ([0.1], [True, False], {"agreement": 0.9}, "decisions"),
        ([1.5], [True], {"agreement": 0.9}, "probabilities"),
        ([float("nan")], [True], {"agreement": 0.9}, "probabilities"),
        ([0.1], [True], {}, "agreement or for a share"),
        ([0.1], [True], {"agreement": 0.9, "share": 0.1}, "agreement or for a share"),
        ([0.1], [True], {"agreement": 9}, "not a share"),
        ([0.1], [True], {"agreement": 0.9, "split": " "}, "development split"),
    ],
)
def test_what_no_band_can_be_fitted_on_is_refused(scores, flagged, settings, message) -> None:
    with pytest.raises(MetricError, match=message):
        fit_band(scores, flagged, **{"split": "dev", **settings})
