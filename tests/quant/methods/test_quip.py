"""QuIP: the rotation is harmless, makes weights incoherent, and is undone."""

from __future__ import annotations

import pytest
import torch

from corral.core.errors import DataError
from corral.models.quantized import IncoherentWeight
from corral.models.quantized.orthogonal import KroneckerOrthogonal
from corral.quant.methods.quip import Incoherence, Quip, SymmetricGrid, greedy_pass, ldlq
from corral.quant.methods.rtn import Rtn
from corral.quant.statistics import proxy_loss


def rotated(layer, damping=0.01):
    return Incoherence.of(layer.weight.clone(), layer.hessian(), seeds=(1, 2), damping=damping)


def incoherence(weight):
    """max |W| sqrt(m n) / ||W||_F of the paper's definition 1."""
    return float(weight.abs().max() * weight.numel() ** 0.5 / weight.norm())


def test_without_rounding_the_weight_comes_back(make_layer):
    layer = make_layer(24, 48)
    found = rotated(layer)
    shell = IncoherentWeight(
        rows=24,
        columns=48,
        bits=2,
        row_seed=1,
        column_seed=2,
        codes=torch.empty(0),
        scale=torch.ones(1),
        column_scales=found.column_scales,
    )
    torch.testing.assert_close(shell.undo(found.weight), layer.weight, atol=1e-5, rtol=1e-4)


def test_losses_compare_after_the_rotation_as_before(make_layer):
    """tr(W H W^T) of two weights keeps its ratio: rescaling and rotation cancel, but for the damping."""
    layer = make_layer(24, 48)
    found = rotated(layer, damping=1e-7)
    other = torch.randn(24, 48, generator=torch.Generator().manual_seed(0))
    rows, columns = KroneckerOrthogonal.random(24, 1), KroneckerOrthogonal.random(48, 2)
    turned = columns.apply(rows.apply((other * found.column_scales.float()).t()).t())

    def ratio(one, two, hessian):
        return float(((one @ hessian) * one).sum() / ((two @ hessian) * two).sum())

    expected = ratio(layer.weight, other, layer.inputs.hessian)
    assert ratio(found.weight, turned, found.hessian) == pytest.approx(expected, rel=1e-3)


def test_an_outlier_is_spread_out(make_layer):
    layer = make_layer(24, 48)
    layer.weight[3, 7] = 5.0
    assert incoherence(rotated(layer).weight) < 0.5 * incoherence(layer.weight)


def test_greedy_passes_never_lose(make_layer):
    found = rotated(make_layer(24, 48))
    grid = SymmetricGrid(2, 2.4 * found.weight.square().mean().sqrt())
    codes = ldlq(found.weight, found.hessian, grid)
    losses = [proxy_loss(found.weight, grid.values(codes), found.hessian)]
    for _ in range(3):
        greedy_pass(codes, found.weight, found.hessian, grid)
        losses.append(proxy_loss(found.weight, grid.values(codes), found.hessian))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert set(codes.unique().tolist()) <= {0, 1, 2, 3}


def test_with_two_bits_less_is_lost_than_by_rounding_to_nearest(make_layer):
    totals = [0.0, 0.0]
    for seed in range(5):
        layer = make_layer(24, 48, seed=seed)
        for index, method in enumerate((Quip(bits=2), Rtn(bits=2, group_size=None))):
            totals[index] += proxy_loss(layer.weight, method.fit(layer).dequantize(), layer.inputs.hessian)
    assert totals[0] < totals[1]


def test_layers_get_rotations_of_their_own_and_a_seed_gives_the_same(make_layer):
    layer = make_layer(24, 48)
    first, again, other = (Quip(bits=2, seed=seed).fit(layer) for seed in (0, 0, 1))
    assert torch.equal(first.dequantize(), again.dequantize())
    assert (first.row_seed, first.column_seed) != (other.row_seed, other.column_seed)


def test_channels_that_are_never_used_are_rounded_like_zeros(make_layer):
    layer = make_layer(24, 48, dead=(5,))
    others = torch.arange(48) != 5
    change = Quip(bits=8).fit(layer).dequantize()[:, others] - layer.weight[:, others]
    assert change.square().mean() < 0.02 * layer.weight.square().mean()


def test_moments_that_are_not_positive_definite_name_the_layer():
    with pytest.raises(DataError, match="up_proj"):
        ldlq(torch.ones(2, 2), -torch.eye(2), SymmetricGrid(2, torch.tensor(1.0)), where="up_proj")
