"""PB-LLM, BiLLM and DB-LLM: what each promises of its codes."""

from __future__ import annotations

import torch

from corral.models.quantized import ResidualBinaryWeight
from corral.quant.binarize import binarize
from corral.quant.methods.billm import MOST_SALIENT, BiLlm, binarize_block
from corral.quant.methods.db_llm import DbLlm, packed, planes, starting_scales
from corral.quant.methods.pb_llm import PbLlm, lowest
from corral.quant.statistics import proxy_loss


def loss(layer, packed_weight):
    return proxy_loss(layer.weight, packed_weight.dequantize(), layer.inputs.hessian)


def test_pb_llm_keeps_the_salient_entries_nearly_as_they_are(make_layer):
    layer = make_layer()
    assert loss(layer, PbLlm(low_frac=0, block_size=16).fit(layer)) < 1e-3
    shares = [loss(layer, PbLlm(low_frac=share, block_size=16).fit(layer)) for share in (0.5, 0.9, 1.0)]
    assert shares == sorted(shares)


def test_pb_llm_stores_two_values_where_it_binarizes(make_layer):
    layer = make_layer(columns=16)
    found = PbLlm(low_frac=1, block_size=16).fit(layer).dequantize()
    assert all(len(row.unique()) == 2 for row in found)


def test_the_lowest_share_of_entries_is_counted_over_the_whole_block():
    mask = lowest(torch.tensor([[5.0, 1.0], [2.0, 9.0]]), 0.5)
    assert mask.tolist() == [[False, True], [True, False]]
    assert lowest(torch.rand(7, 9), 6 / 7).sum() == 54


def test_means_and_scales_of_the_released_code_are_an_option(make_layer):
    layer = make_layer()
    ours, theirs = (PbLlm(block_size=16, compat=compat).fit(layer) for compat in (False, True))
    assert not torch.equal(ours.means, theirs.means)
    assert not torch.equal(ours.scales, theirs.scales)


def test_a_block_of_billm_is_what_its_stored_numbers_give():
    weights = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    weights[:, [2, 11]] *= 8
    found = binarize_block(weights)
    stored = ResidualBinaryWeight.from_parts(
        found.salient,
        found.positive,
        found.residual.positive,
        found.sparse,
        found.row_values[:, None],
        block_size=20,
    )
    torch.testing.assert_close(stored.dequantize(), found.values, atol=1e-5, rtol=1e-5)
    assert found.salient[[2, 11]].all()
    assert 1 <= found.salient.sum() <= MOST_SALIENT


def test_the_search_of_the_released_code_takes_few_salient_columns_where_few_stand_out():
    for seed in range(3):
        weights = torch.randn(6, 128, generator=torch.Generator().manual_seed(seed))
        weights[:, [2, 11]] *= 4
        one, two = (binarize_block(weights, searched_layers=layers).salient.sum() for layers in (1, 2))
        assert two <= 5 < 40 < one <= MOST_SALIENT


def test_a_block_of_billm_has_less_error_than_plain_signs():
    for seed in range(5):
        weights = torch.randn(6, 40, generator=torch.Generator().manual_seed(seed))
        plain = (weights - binarize(weights).values).square().sum()
        assert (weights - binarize_block(weights).values).square().sum() < plain


def test_a_weight_of_billm_is_the_blocks_that_were_rounded(make_layer):
    layer = make_layer(columns=40)
    found = BiLlm(block_size=16).fit(layer)
    first = binarize_block(layer.weight[:, :16])
    torch.testing.assert_close(found.dequantize()[:, :16], first.values, atol=1e-5, rtol=1e-5)
    assert found.values.shape == (16, 3, 8)
    assert loss(layer, found) < 1


def test_db_llm_starts_with_the_nearest_of_four_levels():
    groups = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(0))
    for sign in (1, -1):
        scales = torch.tensor([2.0, -1.0]).mul(sign * 0.4).expand(3, 2, 2)
        first, second = planes(groups, scales)
        values = scales[..., :1] * first + scales[..., 1:] * second
        levels = sign * 0.4 * torch.tensor([-1.0, 0.0, 1.0, 2.0])
        nearest = (groups[..., None] - levels).abs().amin(-1)
        torch.testing.assert_close((groups - values).abs(), nearest)


def test_db_llm_mirrors_its_levels_where_the_longer_tail_is_negative():
    group = torch.tensor([[[0.5, 0.0, -0.5, -1.0]]])
    assert starting_scales(group)[0, 0].tolist() == [-1.0, 0.5]
    assert starting_scales(-group)[0, 0].tolist() == [1.0, -0.5]
    torch.testing.assert_close(packed(group, starting_scales(group)).dequantize(), group.view(1, 4))


def test_db_llms_fit_to_the_inputs_never_loses(make_layer):
    losses = []
    for seed in range(4):
        layer = make_layer(seed=seed)
        start, fitted = (loss(layer, DbLlm(group_size=16, refine=steps).fit(layer)) for steps in (0, 60))
        losses.append((start, fitted))
    assert all(fitted <= start * (1 + 1e-3) for start, fitted in losses)
    assert sum(fitted for _, fitted in losses) < sum(start for start, _ in losses)
