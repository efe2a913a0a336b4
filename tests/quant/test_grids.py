"""Grids against brute force and their invariants."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corral.quant.grids import MSE_POWER, fit_grid

weights = st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=12).map(lambda values: torch.tensor([values]))


@given(weights, st.integers(1, 8))
def test_rounding_finds_the_nearest_of_all_levels(weight, bits):
    grid = fit_grid(weight, bits)
    levels = grid.values(torch.arange(2.0**bits))
    nearest = (weight[..., None] - levels[:, None]).abs().amin(-1)
    torch.testing.assert_close((weight - grid.round(weight)).abs(), nearest, atol=1e-5, rtol=1e-4)


@given(weights, st.integers(2, 8))
def test_zero_is_a_level_and_errors_stay_below_one_step(weight, bits):
    grid = fit_grid(weight, bits)
    assert (grid.values(grid.zeros) == 0).all()
    assert 0 <= grid.zeros.min() <= grid.zeros.max() <= 2**bits - 1
    assert ((weight - grid.round(weight)).abs() <= grid.scales * (1 + 2e-3 * 2**bits) + 1e-6).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_tiny_weights_have_a_grid_that_reaches_them(symmetric):
    for largest in torch.logspace(-7, -3, 200).tolist():
        weight = torch.tensor([[0.0, largest]])
        grid = fit_grid(weight, 7, symmetric=symmetric)
        assert torch.equal(grid.scales, grid.scales.half().float())
        assert ((weight - grid.round(weight)).abs() <= grid.scales * 1.3).all()


def test_a_group_of_zeros_keeps_a_scale_of_one():
    grid = fit_grid(torch.zeros(1, 4), 4)
    assert grid.scales.item() == 1
    assert (grid.round(torch.zeros(1, 4)) == 0).all()


def test_symmetric_grids_put_zero_in_the_middle():
    grid = fit_grid(torch.tensor([[-0.5, 2.0]]), 4, symmetric=True)
    assert grid.zeros.item() == 8
    torch.testing.assert_close(grid.scales, torch.tensor([[4 / 15]]), atol=1e-4, rtol=1e-3)


def test_scales_are_what_float16_holds():
    grid = fit_grid(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), 3, mse=True)
    assert torch.equal(grid.scales.half().float(), grid.scales)


def test_the_search_for_a_smaller_range_never_loses_and_finds_an_outlier():
    group = torch.cat([torch.randn(2, 63, generator=torch.Generator().manual_seed(0)), torch.full((2, 1), 9.0)], 1)
    plain, searched = (fit_grid(group, 3, mse=mse) for mse in (False, True))

    def error(grid):
        return (group - grid.round(group)).abs().pow(MSE_POWER).sum(-1)

    assert (error(searched) < error(plain)).all()
