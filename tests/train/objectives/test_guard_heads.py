"""The loss of a guard with several heads counts each known (row, head) pair once."""

from __future__ import annotations

import math

import pytest
import torch

from corral.train.objectives.guard_heads import guard_heads_loss

UNKNOWN = -100.0


def test_two_known_binary_labels_at_zero_logits_cost_two_log_two() -> None:
    labels = torch.tensor([[1.0, UNKNOWN, 0.0, UNKNOWN]])
    loss = guard_heads_loss(torch.zeros(1, 4), torch.zeros(1, 3), labels, torch.full((1, 3), UNKNOWN))
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_unknown_heads_take_no_gradient() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)
    guard_heads_loss(logits, torch.zeros(1, 1), torch.tensor([[1.0, UNKNOWN]]), torch.full((1, 1), UNKNOWN)).backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-0.5, 0.0]]


def test_splitting_a_batch_does_not_change_the_sum() -> None:
    generator = torch.manual_seed(1)
    binary, categories = torch.randn(6, 4, generator=generator), torch.randn(6, 5, generator=generator)
    labels = torch.tensor([[1, 0, UNKNOWN, 1.0]] * 6)
    kinds = torch.tensor([[1, 0, UNKNOWN, 0, 0.0]] * 6)
    whole = guard_heads_loss(binary, categories, labels, kinds)
    parts = sum(
        guard_heads_loss(binary[i : i + 2], categories[i : i + 2], labels[i : i + 2], kinds[i : i + 2])
        for i in (0, 2, 4)
    )
    torch.testing.assert_close(whole, parts)


def test_categories_take_the_log_sum_exp_loss() -> None:
    loss = guard_heads_loss(torch.zeros(1, 1), torch.zeros(1, 12), torch.tensor([[UNKNOWN]]), torch.zeros(1, 12))
    assert loss.item() == pytest.approx(math.log(13))
