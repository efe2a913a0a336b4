"""Two planes of bits with a scale each: DB-LLM's flexible dual binarization (arXiv 2402.11960)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from corral.core.errors import DataError
from corral.models.quantized.bitstream import packed_bytes, unpack
from corral.models.quantized.packed_weight import PackedWeight


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DualBinaryWeight(PackedWeight):
    """w' = a1 b1 + a2 b2 with b1, b2 in {0, 1}: four levels a group. Stored bits a weight: 2 + 32 / g.

    Attributes:
        group_size: columns that share a1 and a2.
        first: bit stream of b1.
        second: bit stream of b2.
        scales: (m, G, 2), float16: a1 and a2, of any sign.
    """

    kind: ClassVar[str] = "dual_binary"

    group_size: int
    first: Tensor
    second: Tensor
    scales: Tensor

    @property
    def nominal_bits(self) -> float:
        """2."""
        return 2.0

    def dequantize(self) -> Tensor:
        """The matrix (m, n), float32."""
        m, n = self.rows, self.columns
        first, second = (unpack(plane, 1, m * n).view(m, -1, self.group_size) for plane in (self.first, self.second))
        scales = self.scales.float()[..., None]
        return (scales[:, :, 0] * first + scales[:, :, 1] * second).view(m, n)

    def check(self) -> None:
        """See ``PackedWeight``."""
        self._within("group_size", 1)
        if self.columns % self.group_size:
            raise DataError(f"groups of {self.group_size} do not fit {self.columns} columns")
        plane = (packed_bytes(self.rows * self.columns, 1),)
        self._expect("first", self.first, plane, torch.uint8)
        self._expect("second", self.second, plane, torch.uint8)
        self._expect("scales", self.scales, (self.rows, self.columns // self.group_size, 2), torch.float16)
