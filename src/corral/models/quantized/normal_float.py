"""4-bit NormalFloat: codes of quantiles of a normal distribution, scaled by the largest magnitude of a block.

QLoRA (arXiv 2305.14314), section 3; the shift of a block is IR-QLoRA's (arXiv 2402.05445, section 3.2). Blocks are runs
of weights in row-major order; the last is filled up with zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from corral.models.quantized.bitstream import packed_bytes, unpack
from corral.models.quantized.packed_weight import PackedWeight

BITS: Final = 4
NF4_LEVELS: Final = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""Quantiles of the normal distribution with offset .9677083, eight positive, seven negative and zero, over the largest.
A test holds them to that closed form."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NormalFloatWeight(PackedWeight):
    """NF4 codes with a scale a block of 64, itself rounded to 8 bits in blocks of 256 (double quantization).

    Stored bits a weight: 4 + 32 / 64 = 4.5; double 4 + 8 / 64 + 32 / (64 * 256) = 4.127; with shifts 4.254.

    Legend: K blocks, S blocks of blocks.

    Attributes:
        block_size: weights of a block.
        super_block_size: blocks whose scales (and shifts) share a scale.
        codes: bit stream of 4-bit codes.
        absmax: (K,), float32; ``None`` where they are rounded.
        absmax_codes: (K,), int8: absmax less its mean, in units of a 127th of its largest.
        absmax_scales: (S,), float32: those units.
        absmax_mean: (1,), float32.
        shift_codes: (K,), int8: what is taken off a block before it is coded; ``None`` for none.
        shift_scales: (S,), float32: its units.
    """

    kind: ClassVar[str] = "normal_float"

    block_size: int
    super_block_size: int
    codes: Tensor
    absmax: Tensor | None = None
    absmax_codes: Tensor | None = None
    absmax_scales: Tensor | None = None
    absmax_mean: Tensor | None = None
    shift_codes: Tensor | None = None
    shift_scales: Tensor | None = None

    @property
    def nominal_bits(self) -> float:
        """4."""
        return float(BITS)

    @property
    def blocks(self) -> int:
        """K."""
        return math.ceil(self.rows * self.columns / self.block_size)

    def dequantize(self) -> Tensor:
        """The matrix (m, n), float32."""
        codes = unpack(self.codes, BITS, self.blocks * self.block_size).view(self.blocks, self.block_size)
        levels = torch.tensor(NF4_LEVELS, device=self.codes.device)
        values = levels[codes.long()] * self.block_absmax()[:, None]
        if self.shift_codes is not None and self.shift_scales is not None:
            values += decoded_int8(self.shift_codes, self.shift_scales, self.super_block_size)[:, None]
        return values.view(-1)[: self.rows * self.columns].view(self.rows, self.columns)

    def block_absmax(self) -> Tensor:
        """(K,), float32."""
        if self.absmax is not None:
            return self.absmax
        assert self.absmax_codes is not None and self.absmax_scales is not None and self.absmax_mean is not None  # noqa: S101 - `check`
        return decoded_int8(self.absmax_codes, self.absmax_scales, self.super_block_size) + self.absmax_mean

    def check(self) -> None:
        """See ``PackedWeight``."""
        self._within("block_size", 1)
        self._within("super_block_size", 1)
        supers = math.ceil(self.blocks / self.super_block_size)
        self._expect("codes", self.codes, (packed_bytes(self.blocks * self.block_size, BITS),), torch.uint8)
        if self.absmax is not None:
            self._expect("absmax", self.absmax, (self.blocks,), torch.float32)
        else:
            absent = torch.empty(0)
            self._expect("absmax_codes", _or(self.absmax_codes, absent), (self.blocks,), torch.int8)
            self._expect("absmax_scales", _or(self.absmax_scales, absent), (supers,), torch.float32)
            self._expect("absmax_mean", _or(self.absmax_mean, absent), (1,), torch.float32)
        if self.shift_codes is not None or self.shift_scales is not None:
            self._expect("shift_codes", _or(self.shift_codes, torch.empty(0)), (self.blocks,), torch.int8)
            self._expect("shift_scales", _or(self.shift_scales, torch.empty(0)), (supers,), torch.float32)


def coded_int8(values_K: Tensor, super_block_size: int) -> tuple[Tensor, Tensor]:
    """Values as int8 codes (K,) in units of a 127th of their super-block's largest magnitude, and those units (S,)."""
    count = len(values_K)
    supers = math.ceil(count / super_block_size)
    padded = torch.nn.functional.pad(values_K.float(), (0, supers * super_block_size - count)).view(supers, -1)
    largest = padded.abs().amax(1)
    scales_S = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    codes = (padded / scales_S[:, None]).round().to(torch.int8)
    return codes.view(-1)[:count].clone(), scales_S


def decoded_int8(codes_K: Tensor, scales_S: Tensor, super_block_size: int) -> Tensor:
    """What ``coded_int8`` rounded the values to (K,)."""
    return codes_K.float() * scales_S.repeat_interleave(super_block_size)[: len(codes_K)]


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    return other if tensor is None else tensor
