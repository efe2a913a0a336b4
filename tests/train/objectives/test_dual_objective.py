"""DOOR's terms against their closed forms and plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corral.train.objectives.dual_objective import refusal_loss, token_weights, unlearning_loss

ratios = st.floats(-30, 30)


@given(ratios, st.floats(0.05, 2))
def test_unlearning_is_its_closed_form(ratio, beta) -> None:
    # -2/beta log sigmoid(-beta r) = 2/beta log(1 + exp(beta r))
    expected = 2 / beta * math.log1p(math.exp(beta * ratio))
    found = unlearning_loss(torch.tensor([ratio], dtype=torch.float64), beta)
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_small_beta_is_gradient_ascent() -> None:
    # As beta falls, the gradient by the log-likelihood goes to 1, that of ascent (arXiv 2404.05868, proposition 1).
    ratio = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    unlearning_loss(ratio, 1e-6).sum().backward()
    assert float(ratio.grad) == pytest.approx(1.0, abs=1e-5)


def test_an_answer_that_is_unlearnt_pulls_no_more() -> None:
    ratio = torch.tensor([-40.0], dtype=torch.float64, requires_grad=True)
    unlearning_loss(ratio, 0.5).sum().backward()
    assert float(ratio.grad) < 1e-8


def test_weights_of_one_leave_the_likelihood() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, 0.0], [-0.5, 0.0, 0.0]])
    assert refusal_loss(log_probs, torch.ones(2, 3)).tolist() == [3.0, 0.5]
    assert refusal_loss(log_probs, torch.tensor([[2.0, 0.5, 0.0]] * 2)).tolist() == [3.0, 1.0]


@given(st.lists(st.tuples(st.floats(-20, 0), st.floats(-20, 0)), min_size=1, max_size=5), st.floats(0.5, 10))
def test_a_weight_is_above_one_where_preference_training_made_a_token_likelier(pairs, tau) -> None:
    preferred, reference = (torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True))
    weights = token_weights(preferred, reference, tau).tolist()
    assert weights == pytest.approx([math.exp((after - before) / tau) for after, before in pairs])
    for weight, (after, before) in zip(weights, pairs, strict=True):
        assert (weight > 1) == (math.exp((after - before) / tau) > 1)
