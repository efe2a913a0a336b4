"""Products in 8-bit integers: weights by output, activations by token.

A weight is ``round(w / s)`` with ``s`` the largest magnitude of its output over 127, an activation the same with the
largest of its token, so that no token's outcome depends on what else is in its batch (the dynamic quantisation by
token and channel of ZeroQuant, arXiv 2206.01861, and LLM.int8(), arXiv 2208.07339, without its outliers apart). Sums
are 32-bit integers, and exact; processors whose 8-bit products saturate are refused.

oneDNN multiplies unsigned by signed bytes, so activations are stored with 128 added, which it takes off again.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from corral.models.packed.matrices import ROWS, Rows, with_usual_rows

_LARGEST: Final = 127
_MIXED: Final = 16
_ZERO: Final = 128
# Floats from 2^23 to 2^24 are whole numbers: adding this rounds to the nearest (halves to even) and leaves the whole
# number, 128 added, in the lowest byte. Some two to four times as fast as torch's conversion from float32 to bytes.
_ROUNDER: Final = 2.0**23 + _ZERO
_TINY: Final = 1e-30  # an output of zeros: any scale will do
_SMALLEST_UNIT: Final = torch.tensor(_TINY)  # the same for a token


class Int8Matrix:
    """A weight (outputs, inputs) without bias, rounded to 8 bits.

    Args:
        weight: it; a copy is kept.
        mix: replace neighbouring inputs, 16 at a time, by as many sums and differences of them before they are rounded,
            and the weight's columns likewise. The product is the same; an input that is far larger than its
            neighbours, as within a feed-forward layer, leaves more of the 8 bits to the other inputs (the Hadamard
            transform of QuaRot, arXiv 2404.00456, in blocks, which cost less than one of all inputs).
    """

    _mixer: Tensor | None = None

    def __init__(self, weight: Tensor, *, mix: bool = False) -> None:
        wide = weight.float()
        if mix:
            self._mixer = _hadamard(math.gcd(weight.shape[1], _MIXED))
            wide = _mixed(wide, self._mixer)
        scales = wide.abs().amax(1).clamp_min_(_TINY).div_(_LARGEST)
        self._keep((wide / scales[:, None]).round_().to(torch.int8), scales)

    @classmethod
    def of_codes(cls, codes: Tensor, scales: Tensor) -> Int8Matrix:
        """The weight ``scales[:, None] * codes``: int8 codes (outputs, inputs), float32 scales (outputs,)."""
        matrix = cls.__new__(cls)
        matrix._keep(codes, scales)
        return matrix

    def _keep(self, codes: Tensor, scales: Tensor) -> None:
        self._scales = scales
        self._packed = torch.ops.onednn.qlinear_prepack(codes, [ROWS, codes.shape[1]])
        self._zeros = torch.zeros(len(codes), dtype=torch.int64)

    def prepare(self, inputs_Nx: Tensor, room: Tensor) -> Rows:
        """The inputs rounded to 8 bits."""
        return quantise(inputs_Nx if self._mixer is None else _mixed(inputs_Nx.float(), self._mixer))

    def __call__(self, rows: Rows) -> Tensor:
        """The product (N, outputs), in float32."""
        product = _product(rows.values, self._packed, self._scales, self._zeros)
        return product if rows.scales_N1 is None else product.mul_(rows.scales_N1)

    def add_to(self, sums_Nx: Tensor, rows: Rows, room: Tensor) -> None:
        """See ``Addend``; the product takes its scales on the way."""
        product = _product(rows.values, self._packed, self._scales, self._zeros)
        if rows.scales_N1 is None:
            sums_Nx.add_(product)
        else:
            sums_Nx.addcmul_(product, rows.scales_N1)


class GatedInt8Matrix:
    """``silu`` of a product times another of the same inputs, both in one.

    Args:
        both: rows of the one that goes through the activation, then as many of the other.
    """

    def __init__(self, both: Int8Matrix) -> None:
        self._both = both

    def prepare(self, inputs_Nx: Tensor, room: Tensor) -> Rows:
        """The inputs rounded to 8 bits."""
        return self._both.prepare(inputs_Nx, room)

    def __call__(self, rows: Rows) -> Tensor:
        """The outcome (N, outputs), in float32."""
        gate, up = self._both(rows).chunk(2, -1)
        return F.silu(gate).mul_(up)


def quantise(inputs_Nx: Tensor) -> Rows:
    """Each row in units of a 127th of its largest magnitude, 128 added, as unsigned bytes."""
    unit_N1 = torch.add(_SMALLEST_UNIT, inputs_Nx.abs().amax(-1, keepdim=True).float(), alpha=1 / _LARGEST)
    rounded = torch.div(inputs_Nx, unit_N1).add_(_ROUNDER)
    return Rows(rounded.view(torch.int32).to(torch.uint8), unit_N1)


def _mixed(values_Nx: Tensor, mixer_MM: Tensor) -> Tensor:
    return (values_Nx.reshape(-1, len(mixer_MM)) @ mixer_MM).view(values_Nx.shape)


@cache
def _hadamard(size: int) -> Tensor:
    """The orthogonal and symmetric matrix of signs, over the root of its size, which is a power of two."""
    if size == 1:
        return torch.ones(1, 1)
    half = _hadamard(size // 2)
    return torch.cat([torch.cat([half, half], 1), torch.cat([half, -half], 1)]) * 2**-0.5


@cache
def int8_is_exact() -> bool:
    """Whether this torch multiplies 8-bit integers by oneDNN, and this processor without saturating sums."""
    mkldnn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not mkldnn or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return False
    rows, inputs, outputs = 64, 576, 64
    ours = torch.full((rows, inputs), _ZERO + _LARGEST, dtype=torch.uint8)
    weight = torch.full((outputs, inputs), _LARGEST, dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, [ROWS, inputs])
    product = _product(ours, packed, torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64))
    return bool((product == inputs * _LARGEST**2).all())


def _product(values: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        with_usual_rows(values), 1.0, _ZERO, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product[: len(values)]
