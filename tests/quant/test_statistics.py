"""Statistics of inputs against their definitions."""

from __future__ import annotations

import pytest
import torch

from corral.core.errors import DataError
from corral.quant.statistics import ROWS, InputAccumulator, proxy_loss

INPUTS = torch.randn(3, 700, 6, generator=torch.Generator().manual_seed(0))


def counted(batches):
    accumulator = InputAccumulator(6, 2100, hessian=True)
    for batch in batches:
        accumulator.add(batch)
    return accumulator.finish("layer")


def test_batches_add_up_to_the_definitions():
    rows = INPUTS.flatten(0, 1)
    found = counted(INPUTS)
    assert found.tokens == 2100
    torch.testing.assert_close(found.hessian, 2 / 2100 * rows.t() @ rows, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.mean_abs, rows.abs().mean(0))
    assert torch.equal(found.max_abs, rows.abs().amax(0))


def test_kept_rows_are_spread_over_the_text_however_it_is_cut():
    whole, parts = counted([INPUTS.flatten(0, 1)]).rows, counted(INPUTS).rows
    assert torch.equal(whole, parts)
    assert torch.equal(whole, INPUTS.flatten(0, 1)[::5])  # 2100 tokens: every fifth, of the last ones too
    assert ROWS / 2 < len(whole) <= ROWS


def test_scaled_inputs_have_scaled_statistics():
    scales = torch.tensor([1.0, 2.0, 4.0, 0.5, 3.0, 1.0])
    found, expected = counted(INPUTS).divided(scales), counted(INPUTS / scales)
    for name in ("mean_abs", "max_abs", "rows", "hessian"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-4)


def test_inputs_that_overflow_or_never_come_are_named():
    accumulator = InputAccumulator(2, 1, hessian=False)
    with pytest.raises(DataError, match="never reached"):
        accumulator.finish("block.layer")
    accumulator.add(torch.tensor([[1.0, torch.inf]]))
    with pytest.raises(DataError, match=r"block\.layer: the layer reads values that are not finite"):
        accumulator.finish("block.layer")


def test_proxy_loss_is_the_share_of_squared_outputs_that_changes():
    weight, other = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    rows = INPUTS.flatten(0, 1)
    expected = (rows @ (weight - other).t()).square().sum() / (rows @ weight.t()).square().sum()
    assert proxy_loss(weight, other, counted(INPUTS).hessian) == pytest.approx(float(expected), rel=1e-4)
    assert proxy_loss(weight, weight, counted(INPUTS).hessian) == 0
