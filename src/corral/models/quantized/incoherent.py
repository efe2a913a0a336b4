"""Codes of a weight that random orthogonal matrices have spread out: QuIP (arXiv 2307.13304)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from corral.models.quantized.bitstream import packed_bytes, unpack
from corral.models.quantized.orthogonal import KroneckerOrthogonal
from corral.models.quantized.packed_weight import PackedWeight


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IncoherentWeight(PackedWeight):
    """One grid for the whole matrix in a rotated space: W' = Y^T Q V D^-1, Q = scale (2 code / (2^b - 1) - 1).

    Stored bits a weight: b + 16 / m and a scale; the orthogonal Y (m) and V (n) are made anew from their seeds.

    Attributes:
        bits: of a code.
        row_seed: of Y.
        column_seed: of V.
        codes: bit stream of the m n codes.
        scale: (1,), float32.
        column_scales: D (n,), float16.
    """

    kind: ClassVar[str] = "incoherent"

    bits: int
    row_seed: int
    column_seed: int
    codes: Tensor
    scale: Tensor
    column_scales: Tensor

    @property
    def nominal_bits(self) -> float:
        """b."""
        return float(self.bits)

    def dequantize(self) -> Tensor:
        """The matrix (m, n), float32."""
        codes_mn = unpack(self.codes, self.bits, self.rows * self.columns).view(self.rows, self.columns)
        rotated_mn = (codes_mn.float() * (2 / (2**self.bits - 1)) - 1) * self.scale
        return self.undo(rotated_mn)

    def undo(self, rotated_mn: Tensor) -> Tensor:
        """Y^T Q V D^-1 of a matrix Q."""
        rows = KroneckerOrthogonal.random(self.rows, self.row_seed).to(rotated_mn.device)
        columns = KroneckerOrthogonal.random(self.columns, self.column_seed).to(rotated_mn.device)
        return columns.undo(rows.undo(rotated_mn.t()).t()) / self.column_scales.float()

    def check(self) -> None:
        """See ``PackedWeight``."""
        self._within("bits", 1, 8)
        self._expect("codes", self.codes, (packed_bytes(self.rows * self.columns, self.bits),), torch.uint8)
        self._expect("scale", self.scale, (1,), torch.float32)
        self._expect("column_scales", self.column_scales, (self.columns,), torch.float16)
