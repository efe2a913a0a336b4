"""Shares and masses of labels, from closed forms."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import EngineError
from corral.guards.prompted.probabilities import mass, require_logprobs, share


def test_share_and_mass():
    assert share(math.log(0.3), math.log(0.1)) == pytest.approx(0.75)
    assert mass(math.log(0.3), math.log(0.1), math.log(0.2)) == pytest.approx(0.6)
    assert share(-math.inf, -5.0) == 0.0
    assert share(-5.0, -math.inf) == 1.0
    assert share(-math.inf, -math.inf) is None


@given(st.floats(-1e6, 0), st.floats(-1e6, 0))
def test_shares_of_two_labels_sum_to_one(left, right):
    assert share(left, right) + share(right, left) == pytest.approx(1.0)


@pytest.mark.parametrize("values", [(math.nan, -1.0), (math.inf,), (0.1,), (-0.1, -0.1)])
def test_what_is_no_probability_is_refused(values):
    with pytest.raises(EngineError):
        require_logprobs(*values)


def test_rounding_is_allowed():
    require_logprobs(1e-6, -math.inf)
    assert mass(1e-6) == 1.0
