"""BiLLM: salient columns in two layers of signs, all others in one, split by magnitude (arXiv 2402.04291).

Blocks of 128 columns. Of the columns in the order of sum |T|, the k most salient (k = 1 to 49) get a second layer of
signs on what the first leaves; k is what lowers the block's squared error most. The other entries are split at a
quantile of |T|, of .10 to .90, into a concentrated and a sparse part with a mean and scale each. Errors are made up for
across blocks only.

While k is searched the other columns have two layers as well, as in the released code: with one (``searched_layers``) a
further salient column mostly lowers the error, and k is mostly 49. On SmolLM2, whose columns differ little, k is large
in either way, and the codes take 1.2 to 1.4 bits instead of the 1.1 of the paper.

Deviation: T is W, where the released code searches on w^2 / U_jj^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import torch
from pydantic import Field
from torch import Tensor

from corral.models.quantized import ResidualBinaryWeight
from corral.quant.binarize import Binary, binarize
from corral.quant.compensation import BLOCK, DAMPING, at_once, compensate, inverse_factor, quiet_dead_columns
from corral.quant.methods.base import HALF_BITS, Bits, LinearLayer, Method, Needs

MOST_SALIENT: Final = 49
_ROW_VALUES: Final = 8
QUANTILES: Final = tuple(i / 100 for i in range(10, 91))


class BiLlm(Method):
    """Settings of BiLLM.

    Attributes:
        block_size: columns of a block.
        searched_layers: layers of signs of the other columns while k is searched.
        damping: share of the mean diagonal of H that is added to its diagonal.
    """

    needs: ClassVar[Needs] = "hessian"

    block_size: int = Field(default=BLOCK, ge=2)
    searched_layers: Literal[1, 2] = 2
    damping: float = Field(default=DAMPING, gt=0)

    def expected_bits(self, rows: int, columns: int) -> Bits:
        """See ``Method``: a column has two layers of signs, or one and a bitmap, so only the nominal count varies."""
        blocks = math.ceil(columns / self.block_size)
        most_salient = min(MOST_SALIENT * blocks, columns) / columns
        return Bits(1 + most_salient, 2 + _ROW_VALUES * HALF_BITS * blocks / columns + 1 / rows)

    def fit(self, layer: LinearLayer) -> ResidualBinaryWeight:
        """See ``Method``."""
        weight_mn, hessian_nn = layer.weight.clone(), layer.hessian()
        quiet_dead_columns(weight_mn, hessian_nn)
        factor_nn = inverse_factor(hessian_nn, damping=self.damping, where=layer.name)
        found: list[BinaryBlock] = []

        def block(rest_mR: Tensor, factor_BB: Tensor, _start: int) -> tuple[Tensor, Tensor]:
            now_mB = rest_mR[:, : len(factor_BB)]
            found.append(binarize_block(now_mB, searched_layers=self.searched_layers))
            return at_once(now_mB, factor_BB, found[-1].values)

        compensate(weight_mn, factor_nn, block, block=self.block_size)
        return ResidualBinaryWeight.from_parts(
            torch.cat([part.salient for part in found]),
            torch.cat([part.positive for part in found], 1),
            torch.cat([part.residual.positive for part in found], 1),
            torch.cat([part.sparse for part in found], 1),
            torch.stack([part.row_values for part in found], 1),
            block_size=self.block_size,
        )


@dataclass(frozen=True, slots=True)
class BinaryBlock:
    """A block of columns (m, B) in signs.

    Attributes:
        salient: (B,), which columns have two layers.
        first: signs of the salient columns.
        residual: signs of what those leave.
        sparse: (m, B), which entries of the other columns are of the sparse part.
        dense_part: signs of the others.
        sparse_part: signs of the sparse ones.
    """

    salient: Tensor
    first: Binary
    residual: Binary
    sparse: Tensor
    dense_part: Binary
    sparse_part: Binary

    @property
    def values(self) -> Tensor:
        """The rounded block (m, B)."""
        others = torch.where(self.sparse, self.sparse_part.values, self.dense_part.values)
        return torch.where(self.salient, self.first.values + self.residual.values, others)

    @property
    def positive(self) -> Tensor:
        """The first layer of signs (m, B)."""
        others = torch.where(self.sparse, self.sparse_part.positive, self.dense_part.positive)
        return torch.where(self.salient, self.first.positive, others)

    @property
    def row_values(self) -> Tensor:
        """(m, 8), in the order of ``ResidualBinaryWeight``."""
        parts = (self.first, self.residual, self.dense_part, self.sparse_part)
        return torch.cat([value for part in parts for value in (part.mean, part.scale)], 1)


def binarize_block(weights_mB: Tensor, *, searched_layers: int = 2) -> BinaryBlock:
    """Choose the salient columns and the split of the others, each by the least squared error."""
    order = weights_mB.abs().sum(0).argsort(descending=True, stable=True)
    most = min(MOST_SALIENT, max(1, weights_mB.shape[1] - 1))
    errors = [_salient_error(weights_mB, _chosen(order, count), searched_layers) for count in range(1, most + 1)]
    salient_B = _chosen(order, 1 + errors.index(min(errors)))
    first, residual = _two_layers(weights_mB, salient_B.expand_as(weights_mB))
    sparse_mB = _best_split(weights_mB, ~salient_B)
    others_mB = (~salient_B).expand_as(weights_mB)
    return BinaryBlock(
        salient=salient_B,
        first=first,
        residual=residual,
        sparse=sparse_mB,
        dense_part=binarize(weights_mB, others_mB & ~sparse_mB),
        sparse_part=binarize(weights_mB, others_mB & sparse_mB),
    )


def _chosen(order_B: Tensor, count: int) -> Tensor:
    mask = torch.zeros(len(order_B), dtype=torch.bool)
    mask[order_B[:count]] = True
    return mask


def _two_layers(weights_mB: Tensor, mask_mB: Tensor) -> tuple[Binary, Binary]:
    first = binarize(weights_mB, mask_mB)
    return first, binarize(weights_mB - first.values, mask_mB)


def _salient_error(weights_mB: Tensor, salient_B: Tensor, other_layers: int) -> float:
    """Squared error with two layers of signs in the salient columns and so many in the others."""
    salient = _layered_error(weights_mB[:, salient_B], 2)
    return salient + _layered_error(weights_mB[:, ~salient_B], other_layers)


def _layered_error(weights_mb: Tensor, layers: int) -> float:
    left_mb = weights_mb
    for _ in range(layers):
        left_mb = left_mb - binarize(left_mb).values
    return float(left_mb.square().sum())


def _best_split(weights_mB: Tensor, columns_B: Tensor) -> Tensor:
    """Which entries of the given columns are of the sparse part, whose magnitude is above a quantile (m, B)."""
    others_mb = weights_mB[:, columns_B]
    if not others_mb.numel():
        return torch.zeros_like(weights_mB, dtype=torch.bool)
    magnitudes = others_mb.abs()
    ordered = magnitudes.flatten().sort().values
    best: tuple[float, Tensor] | None = None
    for quantile in QUANTILES:
        sparse_mb = magnitudes > ordered[int(quantile * (len(ordered) - 1))]
        error = _split_error(others_mb, sparse_mb)
        if best is None or error < best[0]:
            best = (error, sparse_mb)
    assert best is not None  # noqa: S101 - there are quantiles
    sparse_mB = torch.zeros_like(weights_mB, dtype=torch.bool)
    sparse_mB[:, columns_B] = best[1]
    return sparse_mB


def _split_error(weights_mb: Tensor, sparse_mb: Tensor) -> float:
    dense, sparse = binarize(weights_mb, ~sparse_mb), binarize(weights_mb, sparse_mb)
    return float((weights_mb - torch.where(sparse_mb, sparse.values, dense.values)).square().sum())
