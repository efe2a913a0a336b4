"""NF4 and ICQ against closed forms."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import norm

from corral.models.quantized.normal_float import NF4_LEVELS, coded_int8, decoded_int8
from corral.quant.methods.base import LinearLayer
from corral.quant.methods.icq import SIGMA, Icq, code_entropy
from corral.quant.methods.nf4 import Nf4, blocks_of, nf4_codes

OFFSET = 0.9677083
WEIGHT = torch.randn(8, 96, generator=torch.Generator().manual_seed(0)) * 0.05


def test_levels_are_the_quantiles_of_qlora():
    """Eight positive quantiles and seven negative ones of evenly spaced probabilities, and zero, over the largest."""
    positive = norm.ppf(torch.linspace(OFFSET, 0.5, 9)[:-1].numpy())
    negative = -norm.ppf(torch.linspace(OFFSET, 0.5, 8)[:-1].numpy())
    levels = sorted([*positive, 0.0, *negative])
    assert [level / max(levels) for level in levels] == pytest.approx(NF4_LEVELS, abs=1e-5)
    assert pytest.approx(1 / norm.ppf(OFFSET), abs=1e-5) == SIGMA


def test_codes_are_the_nearest_levels():
    blocks = blocks_of(WEIGHT, 64)
    absmax = blocks.abs().amax(1)
    values = torch.tensor(NF4_LEVELS)[nf4_codes(blocks, absmax).long()]
    distances = (blocks / absmax[:, None])[..., None] - torch.tensor(NF4_LEVELS)
    torch.testing.assert_close((blocks / absmax[:, None] - values).abs(), distances.abs().amin(-1))


def test_codes_and_scales_are_those_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(1)) * 0.05
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=False)
    theirs = torch.stack([packed.view(-1) >> 4, packed.view(-1) & 15], 1).view(-1, 64)
    blocks = blocks_of(weight, 64)
    absmax = blocks.abs().amax(1)
    torch.testing.assert_close(state.absmax.float(), absmax)
    assert torch.equal(theirs, nf4_codes(blocks, absmax).to(torch.uint8))


def test_the_largest_of_a_block_is_kept_exactly_and_zeros_stay_zero():
    weight = WEIGHT.clone()
    weight[0, :64] = 0
    found = Nf4(double=False).fit(LinearLayer("layer", weight, None)).dequantize()
    blocks, rounded = blocks_of(weight, 64), blocks_of(found, 64)
    largest = blocks.abs().argmax(1)
    torch.testing.assert_close(
        rounded.gather(1, largest[:, None]), blocks.gather(1, largest[:, None]), atol=1e-7, rtol=1e-6
    )
    assert (found[0, :64] == 0).all()


def test_double_quantization_moves_scales_by_half_a_step_at_most():
    plain, double = (Nf4(double=double).fit(LinearLayer("layer", WEIGHT, None)) for double in (False, True))
    step = double.absmax_scales.max()
    assert ((plain.block_absmax() - double.block_absmax()).abs() <= step / 2 + 1e-8).all()
    values = torch.randn(300, generator=torch.Generator().manual_seed(2))
    codes, scales = coded_int8(values, 128)
    assert len(scales) == 3
    assert ((decoded_int8(codes, scales, 128) - values).abs() <= scales.repeat_interleave(128)[:300] / 2 + 1e-6).all()


def test_shifts_carry_at_least_the_information_of_the_median():
    blocks = blocks_of(WEIGHT.abs(), 64)  # skewed, so that a shift helps
    shifts = Icq(points=10).shifts(blocks)
    median = blocks.median(1).values
    shifted, centred = (code_entropy(blocks - shift[:, None]) for shift in (shifts, median))
    assert (shifted >= centred).all()
    assert (shifted > centred).any()


def test_entropy_is_that_of_the_code_counts():
    block = torch.tensor([[1.0, 1.0, -1.0, 0.0]])
    assert code_entropy(block).item() == pytest.approx(1.5)  # shares 1/2, 1/4, 1/4


def test_a_shifted_weight_is_near_the_original():
    found = Icq(points=5).fit(LinearLayer("layer", WEIGHT.abs(), None)).dequantize()
    assert (found - WEIGHT.abs()).square().mean() < 0.01 * WEIGHT.square().mean()
