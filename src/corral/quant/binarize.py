"""Rounding to two values: the mean and a magnitude of each row's deviation from it.

Legend: m rows, B columns; a mask says which entries of a row belong together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from corral.models.quantized.packed_weight import half


@dataclass(frozen=True, slots=True)
class Binary:
    """w' = mean + scale sign(w - mean), by row; numbers are those that float16 holds.

    Attributes:
        mean: mu (m, 1).
        scale: alpha (m, 1), never negative.
        positive: (m, B), whether the sign is positive.
    """

    mean: Tensor
    scale: Tensor
    positive: Tensor

    @property
    def values(self) -> Tensor:
        """w' (m, B); of no meaning where the mask was false."""
        return self.mean + torch.where(self.positive, self.scale, -self.scale)


def binarize(weights_mB: Tensor, mask_mB: Tensor | None = None, *, with_zeros: bool = False) -> Binary:
    """The two values of each row: mu = mean, alpha = mean |w - mu| over the masked entries.

    For signs of w - mu, alpha is the least-squares scale: sum |w - mu| / count.

    Args:
        weights_mB: float32.
        mask_mB: which entries count; all when ``None``. A row without any has zeros.
        with_zeros: let entries that are masked out count as zeros in both means, as in PB-LLM's released code.
    """
    mask = torch.ones_like(weights_mB, dtype=torch.bool) if mask_mB is None else mask_mB
    if with_zeros:
        of_all = binarize(weights_mB * mask)
        return Binary(of_all.mean, of_all.scale, weights_mB >= of_all.mean)
    count = mask.sum(1, keepdim=True).clamp_min(1)
    total = (weights_mB * mask).sum(1, keepdim=True)
    mean = (total / count).to(torch.float16).float()
    deviation = weights_mB - mean
    scale = (deviation.abs() * mask).sum(1, keepdim=True) / count
    return Binary(mean, torch.where(scale > 0, half(scale).float(), scale), deviation >= 0)
