"""The Cholesky factor and the loop that makes up for errors, against their definitions."""

from __future__ import annotations

import itertools

import pytest
import torch

from corral.core.errors import DataError
from corral.quant.compensation import at_once, by_column, compensate, inverse_factor, quiet_dead_columns, salience
from corral.quant.grids import AffineGrid
from corral.quant.statistics import proxy_loss

GRID = AffineGrid(2, torch.tensor(0.5), torch.tensor(2.0))  # -1, -.5, 0, .5


def moments(columns, seed=0):
    rows = torch.randn(4 * columns, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows[:, 1:] += 0.7 * rows[:, :-1]
    return 2 / len(rows) * rows.t() @ rows


def test_the_factor_is_upper_triangular_and_its_square_is_the_inverse():
    hessian = moments(6)
    factor = inverse_factor(hessian, damping=0.01)
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(6)
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(factor.t() @ factor @ damped, torch.eye(6, dtype=torch.float64))


def test_damping_grows_until_a_factor_exists_and_then_gives_up():
    hessian = torch.eye(4, dtype=torch.float64)
    hessian[0, 1] = hessian[1, 0] = 1.05  # an eigenvalue of -.05: 1 % is too little, 10 % is enough
    assert inverse_factor(hessian, damping=0.01).isfinite().all()
    hessian[0, 1] = hessian[1, 0] = 50.0
    with pytest.raises(DataError, match=r"blocks\.0: the second moments .* no Cholesky factor"):
        inverse_factor(hessian, damping=0.01, where="blocks.0")


def test_dead_columns_are_set_to_zero():
    weight, hessian = torch.ones(2, 3), torch.diag(torch.tensor([1.0, 0.0, 2.0]))
    quiet_dead_columns(weight, hessian)
    assert weight.tolist() == [[1, 0, 1], [1, 0, 1]]
    assert hessian.diagonal().tolist() == [1, 1, 2]


def test_each_error_is_made_up_for_as_the_optimal_update_says():
    """Against the closed form: with the first columns fixed, the best values of the others are W_F - E H_qF H_FF^-1."""
    torch.manual_seed(0)
    weight, hessian = torch.randn(3, 5, dtype=torch.float64) * 0.3, moments(5)
    factor = inverse_factor(hessian, damping=1e-12)
    seen = []

    def column(j, now):
        seen.append(now.clone())
        return GRID.round(now[j])

    compensate(weight, factor, lambda rest, u, _: by_column(rest, u, column))
    for done, now in enumerate(seen):
        fixed = torch.stack([GRID.round(seen[j][j]) for j in range(done)]) if done else torch.empty(0, 3)
        error = (fixed.double().t() - weight[:, :done]) if done else torch.empty(3, 0, dtype=torch.float64)
        rest = weight[:, done:] - error @ hessian[:done, done:] @ torch.linalg.inv(hessian[done:, done:])
        torch.testing.assert_close(now[done:].t(), rest, atol=1e-7, rtol=1e-6)


def test_blocks_change_nothing_but_when_the_rest_is_updated():
    torch.manual_seed(1)
    weight, factor = torch.randn(3, 12, dtype=torch.float64), inverse_factor(moments(12))

    def rule(rest, u, _):
        return by_column(rest[:, : len(u)], u, lambda j, now: GRID.round(now[j]))

    whole, parts = (compensate(weight, factor, rule, block=block) for block in (12, 5))
    torch.testing.assert_close(whole, parts)


def test_with_uncorrelated_inputs_nothing_is_made_up_for():
    weight, factor = torch.randn(3, 6, generator=torch.Generator().manual_seed(2)), inverse_factor(torch.eye(6))
    rounded = compensate(weight, factor, lambda rest, u, _: by_column(rest, u, lambda j, now: GRID.round(now[j])))
    torch.testing.assert_close(rounded, GRID.round(weight))
    at_block = compensate(
        weight, factor, lambda rest, u, _: at_once(rest[:, : len(u)], u, GRID.round(rest[:, : len(u)]))
    )
    torch.testing.assert_close(at_block, GRID.round(weight))


def test_compensation_lies_between_rounding_and_the_best_of_all_codes():
    """Against brute force over all 4^4 codes of each row of 2 x 4 matrices."""
    hessian = moments(4)
    levels = GRID.values(torch.arange(4.0)).double()
    candidates = torch.tensor(list(itertools.product(levels.tolist(), repeat=4)), dtype=torch.float64)
    totals = {"best": 0.0, "compensated": 0.0, "rounded": 0.0}
    for seed in range(20):
        weight = torch.rand(2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1.5 - 1
        rounded = GRID.round(weight)
        compensated = compensate(
            weight,
            inverse_factor(hessian, damping=1e-6),
            lambda rest, u, _: by_column(rest, u, lambda j, now: GRID.round(now[j])),
        )
        change = candidates[None] - weight[:, None]
        losses = ((change @ hessian) * change).sum(-1)
        best = torch.stack([candidates[index] for index in losses.argmin(1).tolist()])
        found = {"best": best, "compensated": compensated, "rounded": rounded}
        for name, values in found.items():
            totals[name] += proxy_loss(weight, values, hessian)
        assert proxy_loss(weight, best, hessian) <= proxy_loss(weight, compensated, hessian) + 1e-12
    assert totals["best"] < totals["compensated"] < totals["rounded"]


def test_salience_is_the_loss_of_removing_one_weight():
    """Closed form of Optimal Brain Surgeon: w_j^2 / (H^-1)_jj for the first column, where U_jj^2 = (H^-1)_jj."""
    hessian = moments(4)
    weight, factor = torch.tensor([[0.3, -0.2, 0.5, 0.1]], dtype=torch.float64), inverse_factor(hessian, damping=1e-12)
    expected = weight[0, 0] ** 2 / torch.linalg.inv(hessian)[0, 0]
    torch.testing.assert_close(salience(weight, factor)[0, 0], expected)
