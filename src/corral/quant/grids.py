"""Uniform grids: where the levels of a group of weights lie.

Legend: g weights that share a grid, on the last axis; any axes before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from corral.models.quantized.packed_weight import half

MSE_GRID: Final = 100
MSE_LEAST: Final = 0.2
MSE_POWER: Final = 2.4
"""Of GPTQ's search for a smaller range: p in {1, .99, ..., .2}, argmin of the sum of |w - w'|^2.4."""
_NARROWED: Final = 2e-3
_HALF_SPACING: Final = 2.0**-24  # of float16 below 2^-13


@dataclass(frozen=True, slots=True)
class AffineGrid:
    """w' = s (q - z) with q from 0 to 2^b - 1.

    Attributes:
        bits: b.
        scales: s (..., 1), float32 values that float16 holds exactly, so that they are stored as they are used.
        zeros: z (..., 1), whole numbers as float32.
    """

    bits: int
    scales: Tensor
    zeros: Tensor

    def codes(self, weights: Tensor) -> Tensor:
        """q of weights (..., g), as float32."""
        return ((weights / self.scales).round() + self.zeros).clamp(0, 2**self.bits - 1)

    def values(self, codes: Tensor) -> Tensor:
        """w' of codes (..., g)."""
        return (codes - self.zeros) * self.scales

    def round(self, weights: Tensor) -> Tensor:
        """Weights (..., g) on the nearest level."""
        return self.values(self.codes(weights))


def fit_grid(weights: Tensor, bits: int, *, symmetric: bool = False, mse: bool = False) -> AffineGrid:
    """The grid of each group of weights (..., g).

    s = (max(w, 0) - min(w, 0)) / (2^b - 1) and z = round(-min(w, 0) / s); symmetric: z = 2^(b - 1) and
    s = 2 max|w| / (2^b - 1). A group of zeros has s = 1.

    Args:
        weights: float32.
        bits: of a code.
        symmetric: put zero in the middle.
        mse: shrink the range where that lowers the error, see ``MSE_POWER``.
    """
    least = weights.amin(-1, keepdim=True).clamp_max(0)
    largest = weights.amax(-1, keepdim=True).clamp_min(0)
    best = _grid(least, largest, bits, symmetric=symmetric)
    if not mse:
        return best
    error = _error(weights, best)
    for step in range(1, round(MSE_GRID * (1 - MSE_LEAST)) + 1):
        share = 1 - step / MSE_GRID
        grid = _grid(least * share, largest * share, bits, symmetric=symmetric)
        found = _error(weights, grid)
        better = found < error
        error = torch.where(better, found, error)
        best = AffineGrid(
            bits, torch.where(better, grid.scales, best.scales), torch.where(better, grid.zeros, best.zeros)
        )
    return best


def _grid(least: Tensor, largest: Tensor, bits: int, *, symmetric: bool) -> AffineGrid:
    steps = 2**bits - 1
    width = 2 * torch.maximum(-least, largest) if symmetric else largest - least
    scales = torch.where(width > 0, _stored(width / steps), torch.ones_like(width))
    if symmetric:
        return AffineGrid(bits, scales, torch.full_like(scales, 2 ** (bits - 1)))
    return AffineGrid(bits, scales, (-least / scales).round().clamp(0, steps))


def _stored(scales: Tensor) -> Tensor:
    """Scales as float16 holds them; among its smallest, where neighbours lie far apart, none that is much too small."""
    nearest = half(scales).to(scales.dtype)
    return torch.where(nearest < scales * (1 - _NARROWED), nearest + _HALF_SPACING, nearest)


def _error(weights: Tensor, grid: AffineGrid) -> Tensor:
    return (weights - grid.round(weights)).abs().pow_(MSE_POWER).sum(-1, keepdim=True)
