"""DB-LLM: two planes of bits, w' = a1 b1 + a2 b2 (arXiv 2402.11960), a1 = 2 s and a2 = -s to start with.

The four levels -s, 0, s, 2 s of a group, or their mirror image s, 0, -s, -2 s, with nearest-level bits. Ours: s is
searched for the least squared error, and mirrored where that is better; the sign of a1 says which.

Then (``refine``) a1 and a2 of every group are fitted to the inputs of the calibration text, the bits chosen anew in
every step: the loss tr((W - Q) H (W - Q)^T) by AdamW with straight-through bits (the derivative by a_k is the sum of
b_k). Deviation: the paper trains a1 and a2 by distilling the whole model on text that the teacher wrote
(deviation-aware distillation); its learning rate and steps are not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import torch
from pydantic import Field
from torch import Tensor

from corral.models.quantized import DualBinaryWeight
from corral.models.quantized.bitstream import pack
from corral.quant.methods.base import HALF_BITS, Bits, LinearLayer, Method, Needs, check_groups

SEARCH: Final = tuple(step / 40 for step in range(4, 41))
"""Of s, as shares of the group's largest magnitude."""


class DbLlm(Method):
    """Settings of DB-LLM.

    Attributes:
        group_size: columns that share a1 and a2.
        refine: steps of the fit to the inputs; 0 for none.
        learning_rate: of that fit, relative to the root mean square of the scales.
    """

    needs: ClassVar[Needs] = "hessian"

    group_size: int = Field(default=64, ge=1)
    refine: int = Field(default=100, ge=0)
    learning_rate: float = Field(default=1e-2, gt=0)

    def check(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """See ``Method``: groups must divide the columns."""
        check_groups(self.group_size, shapes)

    def expected_bits(self, rows: int, columns: int) -> Bits:
        """See ``Method``: two planes, and two numbers a group."""
        return Bits(2, 2 + 2 * HALF_BITS / self.group_size)

    def fit(self, layer: LinearLayer) -> DualBinaryWeight:
        """See ``Method``."""
        groups_mGg = layer.weight.view(len(layer.weight), -1, self.group_size)
        scales_mG2 = starting_scales(groups_mGg)
        if self.refine:
            scales_mG2 = self._refined(layer, groups_mGg, scales_mG2)
        return packed(groups_mGg, scales_mG2)

    def _refined(self, layer: LinearLayer, groups_mGg: Tensor, start_mG2: Tensor) -> Tensor:
        """The scales with the least loss on the inputs that the fit came across."""
        hessian_nn = layer.hessian()
        unit = start_mG2.square().mean().sqrt()
        steps_mG2 = torch.zeros_like(start_mG2)
        best, least = start_mG2, torch.inf
        optimiser = torch.optim.AdamW([steps_mG2], lr=self.learning_rate, weight_decay=0)
        for _ in range(self.refine):
            scales_mG2 = start_mG2 + unit * steps_mG2
            first, second = planes(groups_mGg, scales_mG2)
            change_mn = _values(first, second, scales_mG2).view_as(layer.weight) - layer.weight
            pulled_mn = change_mn @ hessian_nn
            loss = float((pulled_mn * change_mn).sum())
            if loss < least:
                best, least = scales_mG2, loss
            # 2 (Q - W) H is the loss's derivative by the weights, and through the bits as they are by a1 and a2
            gradient_mGg = (2 * pulled_mn).view_as(groups_mGg)
            steps_mG2.grad = unit * torch.stack([(gradient_mGg * plane).sum(-1) for plane in (first, second)], -1)
            optimiser.step()
        return best


def starting_scales(groups_mGg: Tensor) -> Tensor:
    """a1 = 2 s and a2 = -s (m, G, 2) with the least squared error, negated where the mirrored levels are better."""
    largest = groups_mGg.abs().amax(-1)
    best = torch.zeros(*largest.shape, 2)
    least = torch.full_like(largest, torch.inf)
    for share in SEARCH:
        for sign in (1.0, -1.0):
            scales = torch.stack([2 * sign * share * largest, -sign * share * largest], -1).half().float()
            error = (groups_mGg - _values(*planes(groups_mGg, scales), scales)).square().sum(-1)
            better = error < least
            best, least = torch.where(better[..., None], scales, best), torch.where(better, error, least)
    return best


def planes(groups_mGg: Tensor, scales_mG2: Tensor) -> tuple[Tensor, Tensor]:
    """b1 = [w >= (a1 + a2) / 2] and b2 = [w - a1 b1 <= a2 / 2], both of -w, -a1 and -a2 where a1 is negative."""
    sign = torch.where(scales_mG2[..., :1] < 0, -1.0, 1.0)
    weights, first_scale, second_scale = (
        sign * groups_mGg,
        sign * scales_mG2[..., :1],
        sign * scales_mG2[..., 1:],
    )
    first = (weights >= (first_scale + second_scale) / 2).float()
    return first, (weights - first_scale * first <= second_scale / 2).float()


def packed(groups_mGg: Tensor, scales_mG2: Tensor) -> DualBinaryWeight:
    """The planes for scales as float16 holds them."""
    rows, groups, size = groups_mGg.shape
    stored = scales_mG2.half()
    first, second = planes(groups_mGg, stored.float())
    return DualBinaryWeight(
        rows=rows,
        columns=groups * size,
        group_size=size,
        first=pack(first, 1),
        second=pack(second, 1),
        scales=stored,
    )


def _values(first: Tensor, second: Tensor, scales_mG2: Tensor) -> Tensor:
    return scales_mG2[..., :1] * first + scales_mG2[..., 1:] * second
