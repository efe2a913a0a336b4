"""QuIP: weights and second moments are made incoherent by random rotations, then rounded by LDLQ (arXiv 2307.13304).

Rescaling by D = (diag H / diag W^T W)^(1/4), then W <- Y W V^T and H <- V H V^T with fast random orthogonal matrices,
one grid of 2.4 root mean squares for the whole matrix, and rounding with linear feedback by the factor of
H = L diag L^T from the last column to the first; optionally greedy passes over the columns afterwards.

Deviation: D is divided by its largest and kept in float16, and the scale of the grid takes up the factor.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from pydantic import Field
from torch import Tensor

from corral.core.errors import DataError
from corral.core.files import sha256_json
from corral.models.quantized import IncoherentWeight
from corral.models.quantized.bitstream import pack
from corral.models.quantized.orthogonal import KroneckerOrthogonal
from corral.quant.compensation import DAMPING, quiet_dead_columns
from corral.quant.methods.base import FLOAT_BITS, HALF_BITS, Bits, LinearLayer, Method, Needs

RANGE: Final = 2.4
_LEAST_SCALE: Final = 2.0**-14  # the smallest normal number of float16
_SEED_BITS: Final = 31


class Quip(Method):
    """Settings of QuIP.

    Attributes:
        bits: of a code.
        greedy_passes: how often every column is rounded again, given all others.
        damping: share of the mean diagonal of H that is added to its diagonal, before the rotation and after.
        seed: of the rotations.
    """

    needs: ClassVar[Needs] = "hessian"

    bits: int = Field(default=4, ge=1, le=8)
    greedy_passes: int = Field(default=0, ge=0)
    damping: float = Field(default=DAMPING, gt=0)
    seed: int = 0

    def expected_bits(self, rows: int, columns: int) -> Bits:
        """See ``Method``: a scale a column and one for all; the rotations are made from seeds."""
        return Bits(self.bits, self.bits + HALF_BITS / rows + FLOAT_BITS / (rows * columns))

    def fit(self, layer: LinearLayer) -> IncoherentWeight:
        """See ``Method``."""
        rows, columns = layer.weight.shape
        rotated = Incoherence.of(
            layer.weight, layer.hessian(), seeds=_seeds(self.seed, layer.name), damping=self.damping
        )
        scale = RANGE * rotated.weight.square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        grid = SymmetricGrid(self.bits, scale)
        codes_mn = ldlq(rotated.weight, rotated.hessian, grid, where=layer.name)
        for _ in range(self.greedy_passes):
            greedy_pass(codes_mn, rotated.weight, rotated.hessian, grid)
        return IncoherentWeight(
            rows=rows,
            columns=columns,
            bits=self.bits,
            row_seed=rotated.row_seed,
            column_seed=rotated.column_seed,
            codes=pack(codes_mn, self.bits),
            scale=scale.reshape(1),
            column_scales=rotated.column_scales,
        )


class Incoherence:
    """A weight and second moments after rescaling and rotation.

    Attributes:
        weight: Y W D V^T (m, n).
        hessian: V D^-1 H D^-1 V^T (n, n), damped.
        column_scales: D (n,), float16.
        row_seed: of Y.
        column_seed: of V.
    """

    def __init__(self, weight: Tensor, hessian: Tensor, column_scales: Tensor, row_seed: int, column_seed: int) -> None:
        self.weight, self.hessian, self.column_scales = weight, hessian, column_scales
        self.row_seed, self.column_seed = row_seed, column_seed

    @classmethod
    def of(cls, weight_mn: Tensor, hessian_nn: Tensor, *, seeds: tuple[int, int], damping: float) -> Incoherence:
        """Rescale and rotate. Both arguments are the caller's to lose; a channel that is never used becomes zero."""
        quiet_dead_columns(weight_mn, hessian_nn)
        hessian_nn = hessian_nn / hessian_nn.abs().max()
        balance_n = (hessian_nn.diagonal() / weight_mn.square().sum(0).clamp_min(1e-8)).clamp_min(1e-8).pow(0.25)
        scales_n = (balance_n / balance_n.max()).clamp_min(_LEAST_SCALE).to(torch.float16)
        wide_n = scales_n.float()
        weight_mn, hessian_nn = weight_mn * wide_n, hessian_nn / wide_n / wide_n[:, None]
        hessian_nn = hessian_nn * (len(hessian_nn) / hessian_nn.trace())
        hessian_nn.diagonal().add_(damping)
        rows = KroneckerOrthogonal.random(len(weight_mn), seeds[0])
        columns = KroneckerOrthogonal.random(len(hessian_nn), seeds[1])
        rotated_mn = columns.apply(rows.apply(weight_mn.t()).t())
        rotated_nn = columns.apply(columns.apply(hessian_nn).t())
        rotated_nn.diagonal().add_(damping * rotated_nn.diagonal().mean())
        return cls(rotated_mn, rotated_nn, scales_n, *seeds)


class SymmetricGrid:
    """Levels scale (2 code / (2^b - 1) - 1)."""

    def __init__(self, bits: int, scale: Tensor) -> None:
        self._steps = 2**bits - 1
        self._scale = scale

    def codes(self, weights: Tensor) -> Tensor:
        """Of weights of any shape, as float32."""
        codes: Tensor = ((weights / self._scale + 1) * (self._steps / 2)).round().clamp(0, self._steps)
        return codes

    def values(self, codes: Tensor) -> Tensor:
        """The levels of codes."""
        values: Tensor = (codes * (2 / self._steps) - 1) * self._scale
        return values


def ldlq(weight_mn: Tensor, hessian_nn: Tensor, grid: SymmetricGrid, *, where: str = "") -> Tensor:
    """Codes (m, n): q_j = grid(w_j + sum over i > j of (w_i - q_i) L_ij), from the last column to the first.

    L is the unit lower factor of H = L diag L^T. The same as GPTQ on a fixed grid with the columns reversed.

    Raises:
        DataError: H is not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(hessian_nn)
    if failed:
        raise DataError(
            "the second moments of the inputs have no Cholesky factor", where=where or None, hint="Raise `damping`."
        )
    unit_lower = factor / factor.diagonal()
    weight_nm = weight_mn.t().contiguous()
    codes_nm, errors_nm = torch.empty_like(weight_nm), torch.zeros_like(weight_nm)
    for j in range(len(weight_nm) - 1, -1, -1):
        wanted_m = weight_nm[j] + unit_lower[j + 1 :, j] @ errors_nm[j + 1 :]
        codes_nm[j] = grid.codes(wanted_m)
        errors_nm[j] = weight_nm[j] - grid.values(codes_nm[j])
    return codes_nm.t().contiguous()


def greedy_pass(codes_mn: Tensor, weight_mn: Tensor, hessian_nn: Tensor, grid: SymmetricGrid) -> None:
    """Round every column anew to the level that is best given all others, in place; the loss never grows."""
    errors_mn = grid.values(codes_mn) - weight_mn
    for j in range(weight_mn.shape[1]):
        pull_m = errors_mn @ hessian_nn[:, j] / hessian_nn[j, j] - errors_mn[:, j]
        codes_mn[:, j] = grid.codes(weight_mn[:, j] - pull_m)
        errors_mn[:, j] = grid.values(codes_mn[:, j]) - weight_mn[:, j]


def _seeds(seed: int, name: str) -> tuple[int, int]:
    """Seeds of the two rotations of a layer, different from layer to layer."""
    digest = int(sha256_json([seed, name])[:16], 16)
    return digest % 2**_SEED_BITS, digest // 2**_SEED_BITS % 2**_SEED_BITS
