"""GPTQ: columns left to right, each one's error made up for by the later ones (arXiv 2210.17323).

Groups' grids are fitted when their first column is reached, on the weights as they are then. ``act_order`` takes
columns by descending diag H; groups are then of that order, and the file says which column is in which.
``static_groups`` fits all grids beforehand, so that groups stay runs of columns in any order.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from corral.models.quantized import AffineWeight
from corral.quant.compensation import BLOCK, DAMPING, by_column, compensate, inverse_factor, quiet_dead_columns
from corral.quant.grids import AffineGrid, fit_grid
from corral.quant.methods.base import FLOAT_BITS, Bits, LinearLayer, Needs, UniformGrid


class Gptq(UniformGrid):
    """Settings of GPTQ.

    Attributes:
        act_order: columns by descending second moment of their input.
        static_groups: fit all grids before the first column is rounded.
        damping: share of the mean diagonal of H that is added to its diagonal.
    """

    needs: ClassVar[Needs] = "hessian"

    act_order: bool = False
    static_groups: bool = False
    damping: float = Field(default=DAMPING, gt=0)

    def expected_bits(self, rows: int, columns: int) -> Bits:
        """See ``Method``: in the order of second moments every column says which group it is in."""
        nominal, stored = super().expected_bits(rows, columns)
        return Bits(nominal, stored + (FLOAT_BITS / rows if self.act_order and not self.static_groups else 0))

    def fit(self, layer: LinearLayer) -> AffineWeight:
        """See ``Method``."""
        weight_mn, hessian_nn = layer.weight.clone(), layer.hessian()
        quiet_dead_columns(weight_mn, hessian_nn)
        columns = weight_mn.shape[1]
        order = torch.arange(columns)
        if self.act_order:
            order = hessian_nn.diagonal().argsort(descending=True, stable=True)
        rounding = _Rounding(self, weight_mn, order)
        factor_nn = inverse_factor(hessian_nn[order][:, order], damping=self.damping, where=layer.name)
        compensate(weight_mn[:, order], factor_nn, rounding.block, block=block_columns(rounding.group_size, columns))
        return rounding.packed()


def block_columns(group_size: int, columns: int) -> int:
    """Columns of a block so that every group begins with a column whose earlier errors are all made up for."""
    if group_size <= BLOCK:
        return group_size * (BLOCK // group_size)
    if group_size == columns:
        return BLOCK
    return max(size for size in range(1, BLOCK + 1) if group_size % size == 0)


class _Rounding:
    """Codes and grids as they come about, in the order of ``order``."""

    def __init__(self, settings: Gptq, weight_mn: Tensor, order: Tensor) -> None:
        self._settings = settings
        self._order = order
        rows, columns = weight_mn.shape
        self.group_size = settings.columns_of(columns)
        groups = columns // self.group_size
        self._codes_nm = torch.empty(columns, rows)
        self._scales_Gm = torch.empty(groups, rows)
        self._zeros_Gm = torch.empty(groups, rows)
        if settings.static_groups:
            grid = self._fit(weight_mn.view(rows, groups, self.group_size))
            self._scales_Gm, self._zeros_Gm = grid.scales[..., 0].t().contiguous(), grid.zeros[..., 0].t().contiguous()

    def block(self, rest_mR: Tensor, factor_BB: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """See ``BlockRule``."""

        def column(j: int, now_Bm: Tensor) -> Tensor:
            number = start + j
            group = int(self._order[number] if self._settings.static_groups else number) // self.group_size
            if number % self.group_size == 0 and not self._settings.static_groups:
                # A group within the block is up to date there; one beyond it begins with the block.
                within = j + self.group_size <= len(now_Bm)
                group_mg = now_Bm[j : j + self.group_size].t() if within else rest_mR[:, : self.group_size]
                grid = self._fit(group_mg)
                self._scales_Gm[group], self._zeros_Gm[group] = grid.scales[:, 0], grid.zeros[:, 0]
            grid = AffineGrid(self._settings.bits, self._scales_Gm[group], self._zeros_Gm[group])
            self._codes_nm[number] = grid.codes(now_Bm[j])
            return grid.values(self._codes_nm[number])

        return by_column(rest_mR[:, : len(factor_BB)], factor_BB, column)

    def packed(self) -> AffineWeight:
        """The weight, its columns in their own order."""
        place = self._order.argsort()
        by_order = self._settings.act_order and not self._settings.static_groups
        return AffineWeight.from_codes(
            self._codes_nm[place].t(),
            self._scales_Gm.t().half(),
            None if self._settings.symmetric else self._zeros_Gm.t(),
            bits=self._settings.bits,
            group_index_n=place // self.group_size if by_order else None,
        )

    def _fit(self, weights: Tensor) -> AffineGrid:
        return fit_grid(weights, self._settings.bits, symmetric=self._settings.symmetric, mse=self._settings.mse)
