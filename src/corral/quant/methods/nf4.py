"""NF4: the 4-bit codes of QLoRA's frozen base, without its adapters (arXiv 2305.14314, section 3)."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from corral.models.quantized import NormalFloatWeight
from corral.models.quantized.bitstream import pack
from corral.models.quantized.normal_float import BITS, NF4_LEVELS, coded_int8, decoded_int8
from corral.quant.methods.base import FLOAT_BITS, Bits, LinearLayer, Method


class Nf4(Method):
    """Settings of NF4.

    Attributes:
        block_size: weights that share a scale.
        double: round the scales to 8 bits as well.
        super_block_size: blocks that share the scale of their scales.
    """

    block_size: int = Field(default=64, ge=1)
    double: bool = True
    super_block_size: int = Field(default=256, ge=1)

    def expected_bits(self, rows: int, columns: int) -> Bits:
        """See ``Method``: codes, and a scale a block, itself in 8 bits where it is rounded twice."""
        weights = rows * columns
        blocks = math.ceil(weights / self.block_size)
        scales = self._int8_bits(blocks) + FLOAT_BITS if self.double else FLOAT_BITS * blocks
        return Bits(BITS, (BITS * self.block_size * blocks + scales) / weights)

    def _int8_bits(self, blocks: int) -> int:
        """Of a number a block in 8 bits, and what its units are."""
        return 8 * blocks + FLOAT_BITS * math.ceil(blocks / self.super_block_size)

    def fit(self, layer: LinearLayer) -> NormalFloatWeight:
        """See ``Method``."""
        return self.pack(layer.weight, None)

    def pack(self, weight_mn: Tensor, shifts_K: Tensor | None) -> NormalFloatWeight:
        """The codes of a weight less the shift of each block, where there are shifts."""
        rows, columns = weight_mn.shape
        blocks_Kb = blocks_of(weight_mn, self.block_size)
        shift_codes, shift_scales = None, None
        if shifts_K is not None:
            shift_codes, shift_scales = coded_int8(shifts_K, self.super_block_size)
            blocks_Kb = blocks_Kb - decoded_int8(shift_codes, shift_scales, self.super_block_size)[:, None]
        absmax_K = blocks_Kb.abs().amax(1)
        scales = {"absmax": absmax_K} if not self.double else self._double(absmax_K)
        return NormalFloatWeight(
            rows=rows,
            columns=columns,
            block_size=self.block_size,
            super_block_size=self.super_block_size,
            codes=pack(nf4_codes(blocks_Kb, absmax_K), BITS),
            shift_codes=shift_codes,
            shift_scales=shift_scales,
            **scales,
        )

    def _double(self, absmax_K: Tensor) -> dict[str, Tensor]:
        mean = absmax_K.mean()
        codes, scales = coded_int8(absmax_K - mean, self.super_block_size)
        return {"absmax_codes": codes, "absmax_scales": scales, "absmax_mean": mean.reshape(1)}


def blocks_of(weight_mn: Tensor, block_size: int) -> Tensor:
    """The weights in row-major order as blocks (K, b), the last filled up with zeros."""
    flat = weight_mn.reshape(-1)
    return F.pad(flat, (0, -len(flat) % block_size)).view(-1, block_size)


def nf4_codes(blocks_Kb: Tensor, absmax_K: Tensor) -> Tensor:
    """The nearest level of each weight (K, b), uint8; the upper one where two are as near."""
    levels = torch.tensor(NF4_LEVELS)
    normal = blocks_Kb / torch.where(absmax_K > 0, absmax_K, torch.ones_like(absmax_K))[:, None]
    return torch.bucketize(normal, (levels[1:] + levels[:-1]) / 2, right=True).to(torch.uint8)
