"""Binarization against the closed form of least squares."""

from __future__ import annotations

import pytest
import torch

from corral.quant.binarize import binarize

WEIGHTS = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) + 0.3
MASK = torch.rand(4, 32, generator=torch.Generator().manual_seed(1)) < 0.6


def test_mean_and_scale_are_those_of_the_masked_entries():
    found = binarize(WEIGHTS, MASK)
    for row in range(4):
        kept = WEIGHTS[row][MASK[row]]
        assert found.mean[row].item() == pytest.approx(kept.mean().item(), abs=1e-3)
        assert found.scale[row].item() == pytest.approx((kept - kept.mean()).abs().mean().item(), abs=1e-3)


def test_the_scale_is_the_least_squares_fit_of_the_signs():
    """Closed form: for signs b the best factor of w - mu is <w - mu, b> / <b, b>."""
    found = binarize(WEIGHTS)
    signs = torch.where(found.positive, 1.0, -1.0)
    expected = ((WEIGHTS - found.mean) * signs).sum(1, keepdim=True) / 32
    torch.testing.assert_close(found.scale, expected, atol=1e-3, rtol=1e-3)
    error = (WEIGHTS - found.values).square().sum()
    for factor in (0.95, 1.05):
        assert error < (WEIGHTS - found.mean - factor * found.scale * signs).square().sum()


def test_the_released_code_counts_entries_that_are_masked_out_as_zeros():
    """By brute force: mean and mean deviation of each row of W * mask, over all columns."""
    found = binarize(WEIGHTS, MASK, with_zeros=True)
    for row, masked in enumerate(WEIGHTS * MASK):
        mean = masked.mean()
        assert found.mean[row].item() == pytest.approx(mean.item(), abs=1e-3)
        assert found.scale[row].item() == pytest.approx((masked - mean).abs().mean().item(), abs=1e-3)
    assert torch.equal(found.positive, found.mean <= WEIGHTS)


def test_an_empty_row_and_a_constant_one_stay_finite():
    found = binarize(torch.tensor([[1.0, 2.0], [3.0, 3.0]]), torch.tensor([[False, False], [True, True]]))
    assert found.mean.tolist() == [[0.0], [3.0]]
    assert found.scale.tolist() == [[0.0], [0.0]]
    assert found.values[1].tolist() == [3.0, 3.0]
