"""Rounding columns one after the other, each error made up for by the columns still to come.

GPTQ (arXiv 2210.17323), which is Optimal Brain Surgeon with a fixed order. The factor U is the upper Cholesky factor of
H^-1 (H^-1 = U^T U): after column j was rounded to q_j, w_k -= (w_j - q_j) / U_jj * U_jk for every later k. Columns are
handled in blocks, and the rest of the matrix is updated once a block.

Legend: m rows, n columns, B columns of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from torch import Tensor

from corral.core.errors import DataError

BLOCK: Final = 128
DAMPING: Final = 0.01
_RETRIES: Final = 3

BlockRule: TypeAlias = "Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]"
"""Given the rest of the matrix (m, columns from here on), U of the block (B, B) and the first column's number: the
block's rounded columns (m, B) and its errors (w - q) / U_jj (m, B)."""
ColumnRule: TypeAlias = "Callable[[int, Tensor], Tensor]"
"""Given a column's place in its block and the block as it is now, transposed (B, m): the rounded column (m,)."""


def quiet_dead_columns(weight_mn: Tensor, hessian_nn: Tensor) -> None:
    """Columns whose input is always zero: H_jj becomes 1 and w_j zero, in place."""
    dead = hessian_nn.diagonal() == 0
    hessian_nn.diagonal()[dead] = 1
    weight_mn[:, dead] = 0


def inverse_factor(hessian_nn: Tensor, *, damping: float = DAMPING, where: str = "") -> Tensor:
    """U (n, n), upper triangular with H^-1 = U^T U.

    Args:
        hessian_nn: H without zeros on its diagonal.
        damping: share of the mean diagonal that is added to the diagonal; ten times as much, at most three times, where
            H is still not positive definite.
        where: for messages.

    Raises:
        DataError: it stays so.
    """
    mean = hessian_nn.diagonal().mean()
    for attempt in range(_RETRIES + 1):
        damped = hessian_nn.clone()
        damped.diagonal().add_(damping * 10**attempt * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if failed:
            continue
        upper: Tensor
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed and bool(torch.isfinite(upper).all()):
            return upper
    raise DataError(
        f"the second moments of the inputs have no Cholesky factor, even with {damping * 10**_RETRIES:g} added",
        where=where or None,
        hint="Calibrate on more text.",
    )


def compensate(weight_mn: Tensor, factor_nn: Tensor, rule: BlockRule, *, block: int = BLOCK) -> Tensor:
    """The rounded matrix (m, n); see the module.

    Args:
        weight_mn: the weight; left as it is.
        factor_nn: ``inverse_factor``.
        rule: rounds a block.
        block: B; the last may have fewer columns.
    """
    left_mn = weight_mn.clone()
    columns = weight_mn.shape[1]
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        values, errors = rule(left_mn[:, start:], factor_nn[start:stop, start:stop], start)
        left_mn[:, start:stop] = values
        left_mn[:, stop:].addmm_(errors, factor_nn[start:stop, stop:], alpha=-1)
    return left_mn


def by_column(block_mB: Tensor, factor_BB: Tensor, rule: ColumnRule) -> tuple[Tensor, Tensor]:
    """What a ``BlockRule`` returns, each column's error made up for by the later ones of the block."""
    now_Bm = block_mB.t().contiguous()
    errors_Bm = torch.empty_like(now_Bm)
    values_Bm = torch.empty_like(now_Bm)
    diagonal = factor_BB.diagonal().tolist()
    for j, pivot in enumerate(diagonal):
        values_Bm[j] = rule(j, now_Bm)
        torch.sub(now_Bm[j], values_Bm[j], out=errors_Bm[j]).div_(pivot)
        now_Bm[j + 1 :].addr_(factor_BB[j, j + 1 :], errors_Bm[j], alpha=-1)
    return values_Bm.t(), errors_Bm.t()


def at_once(block_mB: Tensor, factor_BB: Tensor, values_mB: Tensor) -> tuple[Tensor, Tensor]:
    """What a ``BlockRule`` returns for a block that was rounded as a whole."""
    return values_mB, (block_mB - values_mB) / factor_BB.diagonal()


def salience(weight_mB: Tensor, factor_BB: Tensor) -> Tensor:
    """S = w^2 / U_jj^2 (m, B): the loss that removing one weight costs, to a factor."""
    return (weight_mB / factor_BB.diagonal()).square()
