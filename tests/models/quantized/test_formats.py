"""Formats of packed weights: what they dequantize to, how many bits they store, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from corral.core.errors import DataError
from corral.models.quantized import (
    AffineWeight,
    DualBinaryWeight,
    IncoherentWeight,
    NormalFloatWeight,
    PartlyBinaryWeight,
    ResidualBinaryWeight,
)
from corral.models.quantized.bitstream import pack
from corral.models.quantized.packed_weight import FORMATS, half
from corral.quant.methods.base import LinearLayer
from corral.quant.methods.billm import BiLlm
from corral.quant.methods.db_llm import DbLlm
from corral.quant.methods.icq import Icq
from corral.quant.methods.nf4 import Nf4
from corral.quant.methods.pb_llm import PbLlm
from corral.quant.methods.quip import Quip
from corral.quant.methods.rtn import Rtn
from corral.quant.methods.smoothquant import SmoothQuant
from corral.quant.statistics import InputAccumulator

M, N = 128, 256


@pytest.fixture(scope="module")
def layer():
    generator = torch.Generator().manual_seed(0)
    inputs = InputAccumulator(N, 512, hessian=True)
    inputs.add(torch.randn(512, N, generator=generator))
    return LinearLayer("layer", torch.randn(M, N, generator=generator) * 0.05, inputs.finish("layer"))


def fitted(layer):
    """A weight of every format, with the bits that its documentation says it stores."""
    shares = M * N
    return {
        "rtn": (Rtn(bits=4, group_size=128).fit(layer), 4 + (16 + 4) / 128),
        "rtn 3 bits": (Rtn(bits=3, group_size=64).fit(layer), 3 + (16 + 3) / 64),
        "symmetric": (Rtn(bits=4, group_size=128, symmetric=True).fit(layer), 4 + 16 / 128),
        "smoothquant": (SmoothQuant().fit(layer), 8 + 16 / N),
        "quip": (Quip(bits=2).fit(layer), 2 + 16 / M + 32 / shares),
        "pb_llm": (PbLlm().fit(layer), 0.9 + 8 * 0.1 + 1 + 32 / 128 + 40 / shares),
        "billm": (BiLlm().fit(layer), 2 + 128 / 128 + 1 / M),
        "db_llm": (DbLlm(group_size=128, refine=0).fit(layer), 2 + 32 / 128),
        "nf4": (Nf4(double=False).fit(layer), 4.5),
        "nf4 double": (Nf4().fit(layer), 4 + 8 / 64 + 32 / (64 * 256) + 32 / shares),
        "icq": (Icq(points=2).fit(layer), 4 + 2 * 8 / 64 + 2 * 32 / (64 * 256) + 32 / shares),
    }


def test_stored_bits_are_those_of_the_formulas_and_of_the_tensors(layer):
    for name, (weight, expected) in fitted(layer).items():
        assert weight.stored_bits == pytest.approx(expected, abs=2e-3), name
        assert weight.stored_bits == 8 * sum(t.nbytes for t in weight.tensors().values()) / (M * N)
        assert weight.nominal_bits <= weight.stored_bits


def test_nominal_bits_are_those_of_papers(layer):
    nominal = {name: weight.nominal_bits for name, (weight, _) in fitted(layer).items()}
    assert nominal["pb_llm"] == pytest.approx(1.7, abs=1e-3)
    assert PbLlm(low_frac=6 / 7).fit(layer).nominal_bits == pytest.approx(2.0, abs=1e-3)
    assert 1 < nominal["billm"] < 1.4
    assert (nominal["rtn 3 bits"], nominal["db_llm"], nominal["icq"]) == (3, 2, 4)


def test_every_format_is_rebuilt_from_its_settings_and_tensors(layer):
    for name, (weight, _) in fitted(layer).items():
        again = FORMATS.get(weight.kind).of(weight.settings(), weight.tensors(), where="file")
        assert torch.equal(again.dequantize(), weight.dequantize()), name
        assert weight.dequantize().shape == (M, N)


def test_tensors_of_another_shape_are_refused_with_the_place(layer):
    for name, (weight, _) in fitted(layer).items():
        tensors = weight.tensors()
        first = next(iter(tensors))
        with pytest.raises(DataError, match="file"):
            FORMATS.get(weight.kind).of(weight.settings(), tensors | {first: tensors[first][:-1]}, where="file")
        with pytest.raises(DataError, match="no `surplus`"):
            FORMATS.get(weight.kind).of(weight.settings() | {"surplus": 1}, tensors, where="file")
        missing = {key: tensor for key, tensor in tensors.items() if key != first}
        if name not in ("nf4",):
            with pytest.raises(DataError):
                FORMATS.get(weight.kind).of(weight.settings(), missing, where="file")


def test_affine_is_scale_times_code_less_zero():
    weight = AffineWeight.from_codes(
        torch.tensor([[0, 15, 3, 8]]), torch.tensor([[0.5, 2.0]]).half(), torch.tensor([[1, 8]]), bits=4
    )
    assert weight.dequantize().tolist() == [[-0.5, 7.0, -10.0, 0.0]]


def test_a_group_index_says_which_column_is_in_which_group():
    weight = AffineWeight.from_codes(
        torch.tensor([[1, 1, 1, 1]]),
        torch.tensor([[1.0, 3.0]]).half(),
        None,
        bits=1,
        group_index_n=torch.tensor([1, 0, 0, 1]),
    )
    assert weight.zero_points().tolist() == [[1, 1]]
    two_bits = AffineWeight.from_codes(
        torch.tensor([[3, 3, 3, 3]]), torch.tensor([[1.0, 3.0]]).half(), None, bits=2, group_index_n=weight.group_index
    )
    assert two_bits.dequantize().tolist() == [[3.0, 1.0, 1.0, 3.0]]


def test_dual_binary_has_four_levels():
    weight = DualBinaryWeight(
        rows=1,
        columns=4,
        group_size=4,
        first=pack(torch.tensor([0, 0, 1, 1]), 1),
        second=pack(torch.tensor([1, 0, 1, 0]), 1),
        scales=torch.tensor([[[2.0, -1.0]]]).half(),
    )
    assert weight.dequantize().tolist() == [[-1.0, 0.0, 1.0, 2.0]]


def test_partly_binary_mixes_signs_and_codes():
    weight = PartlyBinaryWeight.from_parts(
        torch.tensor([[True, False, True, False]]),
        torch.tensor([[True, True, False, True]]),
        torch.tensor([[9, 200, 9, 100]]),
        high_scale=torch.tensor(0.5),
        high_zero=torch.tensor(100),
        means_mK=torch.tensor([[1.0]]).half(),
        scales_mK=torch.tensor([[0.25]]).half(),
        block_size=8,
    )
    assert weight.dequantize().tolist() == [[1.25, 50.0, 0.75, 0.0]]
    assert weight.nominal_bits == 0.5 + 8 * 0.5


def test_residual_binary_adds_two_layers_in_salient_columns():
    weight = ResidualBinaryWeight.from_parts(
        torch.tensor([True, False, False]),
        torch.tensor([[True, False, True]]),
        torch.tensor([[False, True, True]]),
        torch.tensor([[True, False, True]]),
        torch.tensor([[[1.0, 2.0, 0.5, 0.25, 0.0, 1.0, 10.0, 3.0]]]),
        block_size=4,
    )
    assert weight.dequantize().tolist() == [[3.25, -1.0, 13.0]]
    assert weight.nominal_bits == pytest.approx(4 / 3)


def test_ragged_blocks_of_nf4_are_filled_up():
    matrix = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    weight = Nf4(double=False).fit(LinearLayer("layer", matrix, None))
    assert isinstance(weight, NormalFloatWeight)
    assert weight.blocks == 3
    assert (weight.dequantize() - matrix).abs().max() < 0.16 * matrix.abs().max()


def test_quip_is_undone_by_its_seeds(layer):
    weight = Quip(bits=8).fit(layer)
    assert isinstance(weight, IncoherentWeight)
    assert (weight.dequantize() - layer.weight).square().mean() < 0.02 * layer.weight.square().mean()


def test_scales_too_small_for_float16_do_not_become_zero():
    assert half(torch.tensor([0.0, 1e-12, 1e9])).tolist() == [2.0**-24, 2.0**-24, 65504.0]
