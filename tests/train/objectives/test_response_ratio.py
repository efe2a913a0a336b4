"""The ratio loss of MoGU's experts: golden values are loops over tokens and closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from corral.train.objectives.response_ratio import answer_cross_entropy, response_ratio

MASK = torch.tensor([[False, True, True], [True, True, True], [False, False, True]])


def test_the_cross_entropy_of_an_answer_is_a_mean_over_its_tokens() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3, 5, generator=random)
    targets = torch.randint(5, (3, 3), generator=random)
    found = answer_cross_entropy(logits, targets, MASK)
    for row in range(3):
        losses = []
        for token in range(3):
            if MASK[row, token]:
                weights = [math.exp(value) for value in logits[row, token].tolist()]
                losses.append(-math.log(weights[targets[row, token]] / sum(weights)))
        assert found[row].item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_what_stands_in_the_padding_changes_nothing() -> None:
    logits, targets = torch.randn(3, 3, 5), torch.randint(5, (3, 3))
    before = answer_cross_entropy(logits, targets, MASK)
    logits[~MASK], targets[~MASK] = 1e9, 0
    assert torch.equal(answer_cross_entropy(logits, targets, MASK), before)


def test_the_ratio_and_its_gradients_are_those_of_a_quotient() -> None:
    learnt, avoided = torch.tensor([2.0, 3.0], requires_grad=True), torch.tensor([4.0, 0.5], requires_grad=True)
    found = response_ratio(learnt, avoided)
    assert found.tolist() == [0.5, 6.0]
    found.sum().backward()
    assert learnt.grad is not None
    assert avoided.grad is not None
    assert learnt.grad.tolist() == [0.25, 2.0]  # 1 / avoided
    assert avoided.grad.tolist() == [-0.125, -12.0]  # -learnt / avoided^2


def test_above_the_cap_the_denominator_is_pushed_no_further_and_the_value_stays() -> None:
    learnt, avoided = torch.tensor([2.0, 3.0], requires_grad=True), torch.tensor([4.0, 0.5], requires_grad=True)
    found = response_ratio(learnt, avoided, cap=1.0)
    assert found.tolist() == [0.5, 6.0]
    found.sum().backward()
    assert learnt.grad is not None
    assert avoided.grad is not None
    assert learnt.grad.tolist() == [0.25, 2.0]
    assert avoided.grad.tolist() == [0.0, -12.0]
