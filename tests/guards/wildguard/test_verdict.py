"""One question's answer from those of all windows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.guards.base import Status
from corral.guards.prompted.batches import Failure
from corral.guards.wildguard.scoring import LineAnswer
from corral.guards.wildguard.verdict import LinePart, part_of


def part(*answers, threshold=0.5):
    return part_of(answers, threshold=threshold, min_mass=0.5)


def test_the_most_positive_window_decides():
    pooled = part(LineAnswer("no", 0.2, 0.1, 0.9), LineAnswer("yes", 0.7, 0.0, 0.8))
    assert pooled == LinePart(Status.OK, True, 0.7, mass=0.8, p_na=0.1)
    assert part(LineAnswer("no"), LineAnswer("yes")) == LinePart(Status.OK, True)


@pytest.mark.parametrize("bad", [LineAnswer(None), LineAnswer("n/a"), LineAnswer("yes", 0.9, None, 0.3)])
def test_one_unusable_window_speaks_for_all(bad):
    pooled = part(LineAnswer("no"), bad, LineAnswer("yes"))
    assert (pooled.status, pooled.flagged, pooled.score) == (Status.UNPARSEABLE, None, None)
    assert "window 2 of 3" in pooled.detail


def test_a_failure_keeps_its_status():
    assert part(LineAnswer("no"), Failure(Status.TIMEOUT, "late")).status is Status.TIMEOUT


@given(st.floats(0, 1), st.floats(0.001, 0.999))
def test_the_score_is_at_least_one_half_exactly_where_flagged(p, threshold):
    pooled = part(LineAnswer("yes", p, None, 1.0), threshold=threshold)
    assert pooled.flagged is (p >= threshold)
    assert pooled.score == pytest.approx(0.5) or (pooled.score >= 0.5) is pooled.flagged


def test_the_score_is_the_odds_over_those_of_the_threshold():
    assert LinePart(Status.OK, True, 0.8, threshold=0.8).score == 0.5
    assert LinePart(Status.OK, False, 0.5, threshold=0.8).score == pytest.approx(0.2)
    assert LinePart(Status.OK, True, 0.3).score == 0.3
