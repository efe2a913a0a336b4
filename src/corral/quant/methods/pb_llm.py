"""PB-LLM: the least salient weights of each block of columns become signs, the others stay at 8 bits (2310.00034).

Salience is w^2 / U_jj^2; the 8-bit entries share one grid a matrix; errors are made up for as in GPTQ. A share of 0.9
is the paper's "1.7 bits", 6/7 its "2 bits". Not here: its quantization-aware training.

Deviations: means and scales are taken over the binary entries alone; the released code takes both over all entries of
the row, with zeros in the place of those that are not binary (``compat``). Masks, means and scales are found block by
block on the weights as compensation has left them by then; the released code takes all three from the original weights
(``compat`` does not).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from corral.models.quantized import PartlyBinaryWeight
from corral.quant.binarize import Binary, binarize
from corral.quant.compensation import (
    BLOCK,
    DAMPING,
    by_column,
    compensate,
    inverse_factor,
    quiet_dead_columns,
    salience,
)
from corral.quant.grids import fit_grid
from corral.quant.methods.base import HALF_BITS, Bits, LinearLayer, Method, Needs

_HIGH_BITS = 8


class PbLlm(Method):
    """Settings of PB-LLM.

    Attributes:
        low_frac: share of the entries of a block that become signs.
        block_size: columns of a block.
        compat: means and scales over zeros as well, as in the released code.
        damping: share of the mean diagonal of H that is added to its diagonal.
    """

    needs: ClassVar[Needs] = "hessian"

    low_frac: float = Field(default=0.9, ge=0, le=1)
    block_size: int = Field(default=BLOCK, ge=1)
    compat: bool = False
    damping: float = Field(default=DAMPING, gt=0)

    def expected_bits(self, rows: int, columns: int) -> Bits:
        """See ``Method``: signs, codes, a mask, and two numbers a row and block."""
        nominal = self.low_frac + _HIGH_BITS * (1 - self.low_frac)
        row_values = 2 * HALF_BITS * math.ceil(columns / self.block_size) / columns
        return Bits(nominal, nominal + 1 + row_values)

    def fit(self, layer: LinearLayer) -> PartlyBinaryWeight:
        """See ``Method``."""
        weight_mn, hessian_nn = layer.weight.clone(), layer.hessian()
        quiet_dead_columns(weight_mn, hessian_nn)
        factor_nn = inverse_factor(hessian_nn, damping=self.damping, where=layer.name)
        rows, columns = weight_mn.shape
        high = fit_grid(weight_mn.reshape(1, -1), _HIGH_BITS)
        mask_mn = torch.empty(rows, columns, dtype=torch.bool)
        positive_mn = torch.empty(rows, columns, dtype=torch.bool)
        codes_mn = torch.zeros(rows, columns)
        binaries: list[Binary] = []

        def block(rest_mR: Tensor, factor_BB: Tensor, start: int) -> tuple[Tensor, Tensor]:
            now_mB = rest_mR[:, : len(factor_BB)]
            mask_mB = lowest(salience(now_mB, factor_BB), self.low_frac)
            binary = binarize(now_mB, mask_mB, with_zeros=self.compat)
            binaries.append(binary)
            mean_m, scale_m = binary.mean[:, 0], binary.scale[:, 0]

            def column(j: int, now_Bm: Tensor) -> Tensor:
                weights_m, low_m = now_Bm[j], mask_mB[:, j]
                positive_m, codes_m = weights_m >= mean_m, high.codes(weights_m[None])[0]
                mask_mn[:, start + j], positive_mn[:, start + j], codes_mn[:, start + j] = low_m, positive_m, codes_m
                signed_m = mean_m + torch.where(positive_m, scale_m, -scale_m)
                return torch.where(low_m, signed_m, high.values(codes_m[None])[0])

            return by_column(now_mB, factor_BB, column)

        compensate(weight_mn, factor_nn, block, block=self.block_size)
        return PartlyBinaryWeight.from_parts(
            mask_mn,
            positive_mn,
            codes_mn,
            high_scale=high.scales,
            high_zero=high.zeros,
            means_mK=torch.cat([binary.mean for binary in binaries], 1).half(),
            scales_mK=torch.cat([binary.scale for binary in binaries], 1).half(),
            block_size=self.block_size,
        )


def lowest(scores_mB: Tensor, share: float) -> Tensor:
    """A mask (m, B) of the lowest entries, as many as the share of all says, rounded down."""
    flat = scores_mB.flatten()
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[flat.argsort(stable=True)[: math.floor(share * len(flat) + 1e-9)]] = True
    return mask.view_as(scores_mB)
