"""GPTQ against rounding to nearest, its own definition with a fixed grid, and its options."""

from __future__ import annotations

import pytest
import torch

from corral.core.errors import ConfigError, DataError
from corral.quant.compensation import by_column, compensate, inverse_factor
from corral.quant.grids import fit_grid
from corral.quant.methods.base import LinearLayer
from corral.quant.methods.gptq import Gptq, block_columns
from corral.quant.methods.quip import SymmetricGrid, ldlq
from corral.quant.methods.rtn import Rtn
from corral.quant.statistics import InputStatistics, proxy_loss


def with_hessian(layer, hessian):
    inputs = InputStatistics(100, hessian.diagonal(), hessian.diagonal(), torch.zeros(1, len(hessian)), hessian)
    return LinearLayer(layer.name, layer.weight, inputs)


@pytest.mark.parametrize(("bits", "group_size"), [(4, 16), (3, 32), (2, 64), (4, None)])
def test_uncorrelated_inputs_make_it_rounding_to_nearest(make_layer, bits, group_size):
    layer = with_hessian(make_layer(), torch.eye(64))
    ours, nearest = (kind(bits=bits, group_size=group_size).fit(layer) for kind in (Gptq, Rtn))
    assert torch.equal(ours.dequantize(), nearest.dequantize())
    assert ours.settings() == nearest.settings()


def test_less_of_the_output_is_lost_than_by_rounding_to_nearest(make_layer):
    """Greedy rounding, so no theorem: in the sum, and in at least 95 % of layers."""
    losses = []
    for seed in range(20):
        layer = make_layer(seed=seed)
        for bits in (3, 4):
            fits = [kind(bits=bits, group_size=16).fit(layer).dequantize() for kind in (Gptq, Rtn)]
            losses.append([proxy_loss(layer.weight, fit, layer.inputs.hessian) for fit in fits])
    ours, nearest = torch.tensor(losses).unbind(1)
    assert ours.sum() < nearest.sum()
    assert (ours < nearest).float().mean() >= 0.95


@pytest.mark.parametrize("bits", [2, 4])
def test_ldlq_is_gptq_on_a_fixed_grid_with_the_columns_reversed(bits):
    """QuIP (arXiv 2307.13304), theorem 6; the lower factor of H becomes the upper one of H^-1."""
    torch.manual_seed(0)
    rows = torch.randn(80, 20, dtype=torch.float64) @ torch.randn(20, 20, dtype=torch.float64)
    hessian, weight = rows.t() @ rows / 40 + torch.eye(20), torch.randn(6, 20, dtype=torch.float64)
    grid = SymmetricGrid(bits, torch.tensor(2.0, dtype=torch.float64))
    backwards = torch.arange(19, -1, -1)
    factor = inverse_factor(hessian[backwards][:, backwards], damping=1e-13)

    def column(j, now):
        return grid.values(grid.codes(now[j]))

    gptq = compensate(weight[:, backwards], factor, lambda rest, u, _: by_column(rest, u, column))
    torch.testing.assert_close(grid.values(ldlq(weight, hessian, grid)), gptq[:, backwards])


def test_grids_of_later_groups_are_fitted_to_the_weights_as_they_are_then(make_layer):
    layer = make_layer()
    moving, fixed = (Gptq(bits=3, group_size=16, static_groups=static).fit(layer) for static in (False, True))
    beforehand = fit_grid(layer.weight.view(16, 4, 16), 3).scales[..., 0]
    assert torch.equal(fixed.scales.float(), beforehand)
    assert torch.equal(moving.scales[:, 0].float(), beforehand[:, 0])
    assert not torch.equal(moving.scales[:, 1:].float(), beforehand[:, 1:])


def test_the_order_by_activity_stores_which_column_is_in_which_group(make_layer):
    layer = make_layer()
    packed = Gptq(bits=3, group_size=16, act_order=True).fit(layer)
    order = layer.inputs.hessian.diagonal().argsort(descending=True)
    assert torch.equal(packed.group_index[order], torch.arange(64, dtype=torch.int32) // 16)
    static = Gptq(bits=3, group_size=16, act_order=True, static_groups=True).fit(layer)
    assert static.group_index is None
    plain = Gptq(bits=3, group_size=16).fit(layer)
    losses = [proxy_loss(layer.weight, fit.dequantize(), layer.inputs.hessian) for fit in (packed, static, plain)]
    nearest = proxy_loss(layer.weight, Rtn(bits=3, group_size=16).fit(layer).dequantize(), layer.inputs.hessian)
    assert max(losses) < nearest


def test_channels_that_are_never_used_become_zero(make_layer):
    packed = Gptq(bits=4, group_size=16).fit(make_layer(dead=(3, 40)))
    assert (packed.dequantize()[:, [3, 40]] == 0).all()


def test_fewer_tokens_than_channels_still_have_a_factor(make_layer):
    layer = make_layer(tokens=8)
    assert Gptq(bits=4, group_size=16).fit(layer).dequantize().isfinite().all()


def test_moments_that_cannot_be_factored_name_the_layer(make_layer):
    hessian = torch.eye(64)
    hessian[0, 1] = hessian[1, 0] = 1e4
    with pytest.raises(DataError, match="layer: the second moments"):
        Gptq(group_size=16).fit(with_hessian(make_layer(), hessian))


@pytest.mark.parametrize(
    ("group_size", "columns", "expected"), [(64, 576, 128), (48, 576, 96), (192, 576, 96), (576, 576, 128)]
)
def test_groups_begin_where_blocks_do_or_within_them(group_size, columns, expected):
    assert block_columns(group_size, columns) == expected


def test_groups_must_divide_every_layer_and_the_hint_names_sizes_that_do():
    shapes = {"q_proj": (576, 576), "down_proj": (576, 1536)}
    with pytest.raises(ConfigError, match="`128` do not divide the 576 columns of `q_proj`") as error:
        Gptq(group_size=128).check(shapes)
    assert error.value.hint == "Use 64, 32, 16, or one scale a row (`channel`)."
    Gptq(group_size=64).check(shapes)
    Gptq(group_size=None).check(shapes)
