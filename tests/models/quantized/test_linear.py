"""The layer multiplies by what its codes say, whatever it is moved to."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from corral.models.packed.int8 import int8_is_exact
from corral.models.quantized import QuantizedLinear
from corral.models.quantized.linear import install, quantized_linears, round_activations
from corral.quant.methods.base import LinearLayer
from corral.quant.methods.nf4 import Nf4
from corral.quant.methods.rtn import Rtn
from corral.quant.methods.smoothquant import SmoothQuant

WEIGHT = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
INPUTS = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
LAYER = LinearLayer("layer", WEIGHT, None)


def test_the_product_is_that_of_the_unpacked_matrix():
    packed = Rtn(bits=3, group_size=16).fit(LAYER)
    bias = torch.arange(8.0)
    layer = QuantizedLinear(packed, bias)
    assert torch.equal(layer(INPUTS), F.linear(INPUTS, packed.dequantize(), bias))
    layer.keep_unpacked = True
    assert torch.equal(layer(INPUTS), layer(INPUTS))


def test_another_dtype_changes_the_product_and_never_the_codes_or_scales():
    layer = QuantizedLinear(Nf4().fit(LAYER))
    before = {name: tensor.clone() for name, tensor in layer.packed.tensors().items()}
    layer.to(torch.bfloat16)
    after = layer.packed.tensors()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
    )
    assert layer(INPUTS.bfloat16()).dtype == torch.bfloat16


def test_only_codes_are_stored():
    layer = QuantizedLinear(Rtn(bits=4, group_size=32).fit(LAYER))
    assert sum(tensor.nbytes for tensor in layer.state_dict().values()) == 8 * 32 / 2 + 8 * 2 + 8 / 2
    assert not list(layer.parameters())


def test_activations_are_rounded_by_token_and_a_token_of_zeros_stays():
    inputs = torch.tensor([[1.0, -0.5, 0.26], [0.0, 0.0, 0.0]])
    rounded = round_activations(inputs, 3)  # codes -3 to 3 in steps of a third
    torch.testing.assert_close(rounded, torch.tensor([[1.0, -2 / 3, 1 / 3], [0.0, 0.0, 0.0]]))


@pytest.mark.skipif(not int8_is_exact(), reason="this processor has no exact products of 8-bit integers")
def test_integers_give_what_rounded_numbers_give():
    packed = SmoothQuant().fit(LAYER)
    expected = F.linear(round_activations(INPUTS, 8), packed.dequantize())
    torch.testing.assert_close(QuantizedLinear(packed)(INPUTS), expected, atol=1e-4, rtol=1e-4)


def test_fewer_bits_of_activations_run_as_numbers():
    packed = SmoothQuant(bits=6, activation_bits=6).fit(LAYER)
    expected = F.linear(round_activations(INPUTS, 6), packed.dequantize())
    assert torch.equal(QuantizedLinear(packed)(INPUTS), expected)


def test_layers_are_put_in_the_place_of_linears_with_their_biases():
    model = torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.Linear(8, 2, bias=False))
    bias = model[0].bias.detach().clone()
    install(model, {"0": Rtn(group_size=16).fit(LAYER)})
    assert list(quantized_linears(model)) == ["0"]
    assert torch.equal(model[0].bias, bias)
    assert model[0].keep_unpacked
