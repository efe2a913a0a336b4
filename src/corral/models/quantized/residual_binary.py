"""Signs: a second layer of them for salient columns, two magnitudes for the others. BiLLM (arXiv 2402.04291)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from corral.core.errors import DataError
from corral.models.quantized.bitstream import pack, packed_bytes, unpack
from corral.models.quantized.packed_weight import PackedWeight

VALUES = 8
"""Of a row and block: mean and scale of the salient part, of its residual, of the concentrated and the sparse part."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResidualBinaryWeight(PackedWeight):
    """Entries of salient columns are mu + a sign + mu2 + a2 sign2, others mu + a sign of one of two parts.

    Stored bits a weight, a share r of columns salient: 1 + r + (1 - r) + 128 / block_size, and a bit a column. The
    paper's bitmap of parts covers salient columns too (1 instead of 1 - r).

    Legend: m rows, n columns, r salient columns, K blocks of columns.

    Attributes:
        block_size: columns of a block; the last may have fewer.
        salient_columns: r.
        salient: bit stream of n bits.
        signs: bit stream of m n bits, 1 for positive.
        residual_signs: bit stream of m r bits: of the second layer.
        sparse: bit stream of m (n - r) bits: which entries of the other columns are of the sparse part.
        values: (m, K, 8), float16; see ``VALUES``.
    """

    kind: ClassVar[str] = "residual_binary"

    block_size: int
    salient_columns: int
    salient: Tensor
    signs: Tensor
    residual_signs: Tensor
    sparse: Tensor
    values: Tensor

    @classmethod
    def from_parts(
        cls,
        salient_n: Tensor,
        positive_mn: Tensor,
        residual_positive_mn: Tensor,
        sparse_mn: Tensor,
        values_mK8: Tensor,
        *,
        block_size: int,
    ) -> ResidualBinaryWeight:
        """Pack booleans; residual signs count in salient columns only, the sparse part in the others."""
        rows, columns = positive_mn.shape
        return cls(
            rows=rows,
            columns=columns,
            block_size=block_size,
            salient_columns=int(salient_n.sum()),
            salient=pack(salient_n, 1),
            signs=pack(positive_mn, 1),
            residual_signs=pack(residual_positive_mn[:, salient_n], 1),
            sparse=pack(sparse_mn[:, ~salient_n], 1),
            values=values_mK8.to(torch.float16),
        )

    @property
    def nominal_bits(self) -> float:
        """1 and the share of salient columns."""
        return 1 + self.salient_columns / self.columns

    def dequantize(self) -> Tensor:
        """The matrix (m, n), float32."""
        m, n, r = self.rows, self.columns, self.salient_columns
        salient_n = unpack(self.salient, 1, n).bool()
        sign_mn = unpack(self.signs, 1, m * n).view(m, n).float() * 2 - 1
        values = [value.repeat_interleave(self.block_size, 1)[:, :n] for value in self.values.float().unbind(-1)]
        mean, scale, mean2, scale2, dense_mean, dense_scale, sparse_mean, sparse_scale = values
        sparse_mn = torch.zeros(m, n, dtype=torch.bool, device=sign_mn.device)
        sparse_mn[:, ~salient_n] = unpack(self.sparse, 1, m * (n - r)).view(m, n - r).bool()
        residual_mn = torch.zeros(m, n, device=sign_mn.device)
        residual_mn[:, salient_n] = unpack(self.residual_signs, 1, m * r).view(m, r).float() * 2 - 1
        others = torch.where(sparse_mn, sparse_mean + sparse_scale * sign_mn, dense_mean + dense_scale * sign_mn)
        return torch.where(salient_n, mean + scale * sign_mn + mean2 + scale2 * residual_mn, others)

    def check(self) -> None:
        """See ``PackedWeight``."""
        self._within("block_size", 1)
        self._within("salient_columns", 0, self.columns)
        m, n, r = self.rows, self.columns, self.salient_columns
        self._expect("salient", self.salient, (packed_bytes(n, 1),), torch.uint8)
        if (marked := int(unpack(self.salient, 1, n).sum())) != r:
            raise DataError(f"`salient` marks {marked} columns, `salient_columns` says {r}")
        self._expect("signs", self.signs, (packed_bytes(m * n, 1),), torch.uint8)
        self._expect("residual_signs", self.residual_signs, (packed_bytes(m * r, 1),), torch.uint8)
        self._expect("sparse", self.sparse, (packed_bytes(m * (n - r), 1),), torch.uint8)
        self._expect("values", self.values, (m, math.ceil(n / self.block_size), VALUES), torch.float16)
