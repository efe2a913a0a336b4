"""RTN: every weight to the nearest level of its group's grid; no data.

Option ``mse``: GPTQ's search for a smaller range (arXiv 2210.17323, released code).
"""

from __future__ import annotations

from torch import Tensor

from corral.models.quantized import AffineWeight
from corral.quant.grids import fit_grid
from corral.quant.methods.base import LinearLayer, UniformGrid


class Rtn(UniformGrid):
    """Settings of RTN: those of its grids."""

    def fit(self, layer: LinearLayer) -> AffineWeight:
        """See ``Method``."""
        size = self.columns_of(layer.weight.shape[1])
        return round_to_nearest(layer.weight, self.bits, size, symmetric=self.symmetric, mse=self.mse)


def round_to_nearest(
    weight_mn: Tensor, bits: int, group_size: int, *, symmetric: bool = False, mse: bool = False
) -> AffineWeight:
    """A weight (m, n) on the grids of its groups; ``group_size`` divides n."""
    rows, columns = weight_mn.shape
    grouped = weight_mn.view(rows, -1, group_size)
    grid = fit_grid(grouped, bits, symmetric=symmetric, mse=mse)
    return AffineWeight.from_codes(
        grid.codes(grouped).view(rows, columns),
        grid.scales[..., 0].half(),
        None if symmetric else grid.zeros[..., 0],
        bits=bits,
    )
