"""Uniform grids: w' = s (q - z), a scale s and a zero point z a row and group of columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from corral.core.errors import DataError
from corral.models.quantized.bitstream import pack, packed_bytes, unpack
from corral.models.quantized.packed_weight import PackedWeight

FULL_PRECISION = 16
"""``activation_bits`` of a layer whose inputs are left as they are."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AffineWeight(PackedWeight):
    """Codes of b bits with a scale and a zero point a group.

    Stored bits a weight: b + (16 + b) / g, without zero points b + 16 / g, and 32 / m more with a group index.

    Legend: m rows, n columns, G groups a row.

    Attributes:
        bits: of a code, 1 to 8.
        group_size: columns that share a scale; n for one scale a row.
        codes: bit stream of the m n codes q, row by row.
        scales: (m, G), float16; of files that others wrote also bfloat16 or float32.
        zeros: bit stream of the m G zero points; ``None`` on a symmetric grid, where all are 2^(b - 1).
        group_index: (n,), int32: the group of each column; ``None`` where groups are runs of ``group_size`` columns.
        activation_bits: the layer's inputs are rounded to so many bits, token by token; 16 leaves them.
    """

    kind: ClassVar[str] = "affine"

    bits: int
    group_size: int
    codes: Tensor
    scales: Tensor
    zeros: Tensor | None = None
    group_index: Tensor | None = None
    activation_bits: int = FULL_PRECISION

    @classmethod
    def from_codes(
        cls,
        codes_mn: Tensor,
        scales_mG: Tensor,
        zeros_mG: Tensor | None,
        *,
        bits: int,
        group_index_n: Tensor | None = None,
        activation_bits: int = FULL_PRECISION,
    ) -> AffineWeight:
        """Pack codes; the group size is n / G. Scales are kept as they are: codes must have been chosen for them."""
        rows, columns = codes_mn.shape
        return cls(
            rows=rows,
            columns=columns,
            bits=bits,
            group_size=columns // scales_mG.shape[1],
            codes=pack(codes_mn, bits),
            scales=scales_mG.contiguous(),
            zeros=None if zeros_mG is None else pack(zeros_mG, bits),
            group_index=None if group_index_n is None else group_index_n.to(torch.int32),
            activation_bits=activation_bits,
        )

    @property
    def groups(self) -> int:
        """Groups a row."""
        return self.columns // self.group_size

    @property
    def nominal_bits(self) -> float:
        """b."""
        return float(self.bits)

    def code_matrix(self) -> Tensor:
        """The codes q (m, n), uint8."""
        return unpack(self.codes, self.bits, self.rows * self.columns).view(self.rows, self.columns)

    def zero_points(self) -> Tensor:
        """The zero points (m, G), uint8."""
        if self.zeros is None:
            return torch.full(
                (self.rows, self.groups), 2 ** (self.bits - 1), dtype=torch.uint8, device=self.codes.device
            )
        return unpack(self.zeros, self.bits, self.rows * self.groups).view(self.rows, self.groups)

    def dequantize(self) -> Tensor:
        """The matrix (m, n), float32."""
        codes_mn, scales_mG, zeros_mG = self.code_matrix().float(), self.scales.float(), self.zero_points().float()
        if self.group_index is not None:
            columns = self.group_index.long()
            return (codes_mn - zeros_mG[:, columns]) * scales_mG[:, columns]
        grouped = codes_mn.view(self.rows, self.groups, self.group_size)
        return ((grouped - zeros_mG[..., None]) * scales_mG[..., None]).view(self.rows, self.columns)

    def check(self) -> None:
        """See ``PackedWeight``."""
        self._within("bits", 1, 8)
        self._within("group_size", 1)
        self._within("activation_bits", 2, FULL_PRECISION)
        if self.columns % self.group_size:
            raise DataError(f"groups of {self.group_size} do not fit {self.columns} columns")
        self._expect("codes", self.codes, (packed_bytes(self.rows * self.columns, self.bits),), torch.uint8)
        self._expect("scales", self.scales, (self.rows, self.groups), self.scales.dtype)
        if not self.scales.dtype.is_floating_point:
            raise DataError(f"`scales` are {self.scales.dtype}")
        if self.zeros is not None:
            self._expect("zeros", self.zeros, (packed_bytes(self.rows * self.groups, self.bits),), torch.uint8)
        if self.group_index is not None:
            self._expect("group_index", self.group_index, (self.columns,), torch.int32)
            if (
                self.group_index.numel()
                and not 0 <= int(self.group_index.min()) <= int(self.group_index.max()) < self.groups
            ):
                raise DataError(f"`group_index` names groups outside 0 to {self.groups - 1}")
