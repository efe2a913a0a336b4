"""Most weights as signs, the salient rest in 8 bits: PB-LLM (arXiv 2310.00034)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from corral.core.errors import DataError
from corral.models.quantized.bitstream import pack, packed_bytes, unpack
from corral.models.quantized.packed_weight import PackedWeight

_HIGH_BITS = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartlyBinaryWeight(PackedWeight):
    """Masked entries are mean + scale sign, of their row and block of columns; the others s (q - z) on one 8-bit grid.

    Stored bits a weight, f of them binary: f + 8 (1 - f) + 1 (mask) + 32 / block_size, and the grid.

    Legend: m rows, n columns, K blocks of columns.

    Attributes:
        block_size: columns of a block; the last may have fewer.
        binary_entries: how many entries are binary.
        mask: bit stream of m n bits, 1 where an entry is binary.
        signs: bit stream of the signs of the binary entries in row-major order, 1 for positive.
        high_codes: (m n - binary entries,), uint8: codes of the others in row-major order.
        high_scale: s (1,), float32.
        high_zero: z (1,), uint8.
        means: (m, K), float16.
        scales: (m, K), float16.
    """

    kind: ClassVar[str] = "partly_binary"

    block_size: int
    binary_entries: int
    mask: Tensor
    signs: Tensor
    high_codes: Tensor
    high_scale: Tensor
    high_zero: Tensor
    means: Tensor
    scales: Tensor

    @classmethod
    def from_parts(
        cls,
        mask_mn: Tensor,
        positive_mn: Tensor,
        high_codes_mn: Tensor,
        *,
        high_scale: Tensor,
        high_zero: Tensor,
        means_mK: Tensor,
        scales_mK: Tensor,
        block_size: int,
    ) -> PartlyBinaryWeight:
        """Pack a mask, the signs where it is true and the codes where it is false."""
        rows, columns = mask_mn.shape
        return cls(
            rows=rows,
            columns=columns,
            block_size=block_size,
            binary_entries=int(mask_mn.sum()),
            mask=pack(mask_mn, 1),
            signs=pack(positive_mn[mask_mn], 1),
            high_codes=high_codes_mn[~mask_mn].to(torch.uint8),
            high_scale=high_scale.reshape(1).float(),
            high_zero=high_zero.reshape(1).to(torch.uint8),
            means=means_mK,
            scales=scales_mK,
        )

    @property
    def nominal_bits(self) -> float:
        """f + 8 (1 - f)."""
        share = self.binary_entries / (self.rows * self.columns)
        return share + _HIGH_BITS * (1 - share)

    def dequantize(self) -> Tensor:
        """The matrix (m, n), float32."""
        mask_mn = unpack(self.mask, 1, self.rows * self.columns).view(self.rows, self.columns).bool()
        signs = unpack(self.signs, 1, self.binary_entries).float() * 2 - 1
        weight_mn = torch.zeros(self.rows, self.columns, device=mask_mn.device)
        weight_mn[mask_mn] = signs
        weight_mn = self._widened(self.means) + self._widened(self.scales) * weight_mn
        weight_mn[~mask_mn] = (self.high_codes.float() - self.high_zero.float()) * self.high_scale
        return weight_mn

    def _widened(self, values_mK: Tensor) -> Tensor:
        """A value a block as one a column (m, n)."""
        return values_mK.float().repeat_interleave(self.block_size, 1)[:, : self.columns]

    def check(self) -> None:
        """See ``PackedWeight``."""
        self._within("block_size", 1)
        self._within("binary_entries", 0, self.rows * self.columns)
        entries, blocks = self.rows * self.columns, math.ceil(self.columns / self.block_size)
        self._expect("mask", self.mask, (packed_bytes(entries, 1),), torch.uint8)
        if (marked := int(unpack(self.mask, 1, entries).sum())) != self.binary_entries:
            raise DataError(f"`mask` marks {marked} entries, `binary_entries` says {self.binary_entries}")
        self._expect("signs", self.signs, (packed_bytes(self.binary_entries, 1),), torch.uint8)
        self._expect("high_codes", self.high_codes, (entries - self.binary_entries,), torch.uint8)
        self._expect("high_scale", self.high_scale, (1,), torch.float32)
        self._expect("high_zero", self.high_zero, (1,), torch.uint8)
        self._expect("means", self.means, (self.rows, blocks), torch.float16)
        self._expect("scales", self.scales, (self.rows, blocks), torch.float16)
