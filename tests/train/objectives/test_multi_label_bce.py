"""Binary cross entropy over known categories, against its closed form and brute force."""

from __future__ import annotations

import math

import pytest
import torch

from corral.train.objectives.multi_label_bce import multi_label_bce
from corral.train.objectives.zlpr import zlpr_loss


def test_at_zero_scores_it_is_log_two() -> None:
    labels = torch.tensor([[0.0] * 12, [1.0] + [0.0] * 11, [1.0, -100.0] + [0.0] * 10])
    assert multi_label_bce(torch.zeros(3, 12), labels).tolist() == pytest.approx([math.log(2)] * 3)


def test_it_is_the_mean_over_known_categories() -> None:
    scores, labels = torch.tensor([[1.5, -0.5, 3.0]]), torch.tensor([[1.0, 0.0, -1.0]])
    expected = (-math.log(1 / (1 + math.exp(-1.5))) - math.log(1 - 1 / (1 + math.exp(0.5)))) / 2
    assert multi_label_bce(scores, labels).item() == pytest.approx(expected)


def test_a_row_without_a_label_gives_nothing() -> None:
    scores = torch.ones(1, 12, requires_grad=True)
    multi_label_bce(scores, torch.full((1, 12), -100.0)).sum().backward()
    assert scores.grad is not None
    assert scores.grad.abs().sum() == 0


def test_the_log_sum_exp_loss_pulls_harder_at_the_one_violated_category() -> None:
    # the claim of the study at its root: at zero scores, closed forms 1/2 over 12 against 1/2
    labels = torch.tensor([[1.0] + [0.0] * 11])
    pulls = []
    for loss in (multi_label_bce, zlpr_loss):
        scores = torch.zeros(1, 12, requires_grad=True)
        loss(scores, labels).sum().backward()
        assert scores.grad is not None
        pulls.append((scores.grad[0, 0].item(), scores.grad[0, 1:].sum().item()))
    assert pulls[0] == pytest.approx((-0.5 / 12, 0.5 * 11 / 12))
    assert pulls[1] == pytest.approx((-0.5, 11 / 12))
