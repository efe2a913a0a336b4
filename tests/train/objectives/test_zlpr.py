"""The log-sum-exp multi-label loss against its closed forms, a brute-force sum and numeric gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corral.train.objectives.zlpr import zlpr_loss

UNKNOWN = -100


def brute_force(scores: list[float], labels: list[int]) -> float:
    negatives = sum(math.exp(s) for s, y in zip(scores, labels, strict=True) if y == 0)
    positives = sum(math.exp(-s) for s, y in zip(scores, labels, strict=True) if y == 1)
    return math.log1p(negatives) + math.log1p(positives)


def test_all_zero_scores_of_a_safe_row_cost_log_13() -> None:
    loss = zlpr_loss(torch.zeros(1, 12), torch.zeros(1, 12))
    assert loss.item() == pytest.approx(2.56495, abs=1e-5)


def test_all_zero_scores_with_two_positives_cost_log_11_plus_log_3() -> None:
    labels = torch.zeros(1, 12)
    labels[0, :2] = 1
    assert zlpr_loss(torch.zeros(1, 12), labels).item() == pytest.approx(3.49651, abs=1e-5)


rows = st.integers(1, 8).flatmap(
    lambda k: st.tuples(
        st.lists(st.floats(-20, 20), min_size=k, max_size=k),
        st.lists(st.sampled_from([0, 1, UNKNOWN]), min_size=k, max_size=k),
    )
)


@given(rows)
def test_loss_equals_the_sum_written_out(row: tuple[list[float], list[int]]) -> None:
    scores, labels = row
    loss = zlpr_loss(torch.tensor([scores], dtype=torch.float64), torch.tensor([labels]))
    assert loss.item() == pytest.approx(brute_force(scores, labels), rel=1e-9, abs=1e-9)


def test_gradient_equals_finite_differences() -> None:
    scores = torch.randn(3, 7, dtype=torch.float64, generator=torch.manual_seed(0), requires_grad=True)
    labels = torch.tensor([[0, 1, UNKNOWN, 0, 1, 0, 0], [0] * 7, [UNKNOWN] * 7])
    assert torch.autograd.gradcheck(lambda s: zlpr_loss(s, labels), (scores,), eps=1e-6, atol=1e-6)


def test_unknown_categories_take_no_gradient() -> None:
    scores = torch.zeros(1, 3, requires_grad=True)
    zlpr_loss(scores, torch.tensor([[0, 1, UNKNOWN]])).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, 2].item() == 0.0
    assert scores.grad[0, 0].item() > 0.0 > scores.grad[0, 1].item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_large_scores_stay_finite_in_every_precision(dtype: torch.dtype) -> None:
    scores = torch.tensor([[1e4, -1e4, 1e4, -1e4]], dtype=dtype, requires_grad=True)
    loss = zlpr_loss(scores, torch.tensor([[0, 0, 1, 1]]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_a_row_without_a_known_label_costs_nothing() -> None:
    assert zlpr_loss(torch.full((1, 4), 3.0), torch.full((1, 4), UNKNOWN)).item() == 0.0
