"""SmoothQuant: outliers of activations are moved into the weights, then both are integers (arXiv 2211.10438).

t_j = max|X_j|^a / max|W_j|^(1 - a) for each norm and the Linears that read it. Weights are symmetric by row,
activations symmetric by token while the model runs, both with 2^(b - 1) - 1 as their largest code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import torch
from pydantic import Field
from torch import Tensor

from corral.models.quantized import AffineWeight
from corral.models.quantized.packed_weight import half
from corral.quant.blocks import NORMS, CalibratedBlock
from corral.quant.folding import Folds, fold
from corral.quant.methods.base import HALF_BITS, Bits, LinearLayer, Method, Needs, Propagation

_LEAST: Final = 1e-5


class SmoothQuant(Method):
    """Settings of SmoothQuant.

    Attributes:
        bits: of weights.
        activation_bits: of activations; 16 leaves them.
        alpha: a; the paper's settings are .85 for Llama-2-7B and 13B and Llama-3, .9 for Llama-2-70B, .8 for Mistral.
    """

    needs: ClassVar[Needs] = "channels"
    propagation: ClassVar[Propagation] = "full"
    folds: ClassVar[Folds] = NORMS

    bits: int = Field(default=8, ge=2, le=8)
    activation_bits: int = Field(default=8, ge=2, le=16)
    alpha: float = Field(default=0.85, ge=0, le=1)

    def check(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """See ``Method``: any shape will do."""

    def expected_bits(self, rows: int, columns: int) -> Bits:
        """See ``Method``: a scale a row; activations are stored nowhere."""
        return Bits(self.bits, self.bits + HALF_BITS / columns)

    def fold(self, block: CalibratedBlock) -> None:
        """See ``Method``: attention's input and the feed-forward layer's."""
        for group, norm in self.folds.items():
            linears = [block.linear(name) for name in group]
            largest_n = torch.stack([linear.weight.detach().abs().amax(0) for linear in linears]).amax(0)
            scales_n = smoothing_scales(block.inputs[group[0]].max_abs, largest_n, self.alpha)
            fold(block.block, group, norm, scales_n)
            for name in group:
                block.inputs[name] = block.inputs[name].divided(scales_n)

    def fit(self, layer: LinearLayer) -> AffineWeight:
        """See ``Method``."""
        largest = 2 ** (self.bits - 1) - 1
        scales_m1 = half(layer.weight.abs().amax(1, keepdim=True) / largest)
        codes_mn = (layer.weight / scales_m1.float()).round().clamp(-largest, largest) + 2 ** (self.bits - 1)
        return AffineWeight.from_codes(codes_mn, scales_m1, None, bits=self.bits, activation_bits=self.activation_bits)


def smoothing_scales(input_max_n: Tensor, weight_max_n: Tensor, alpha: float) -> Tensor:
    """t (n,) of the largest magnitudes of inputs and weights in each channel."""
    inputs_n, weights_n = input_max_n.clamp_min(_LEAST), weight_max_n.clamp_min(_LEAST)
    return (inputs_n.pow(alpha) / weights_n.pow(1 - alpha)).clamp_min(_LEAST)
