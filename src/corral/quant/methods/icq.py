"""ICQ: IR-QLoRA's shift of each block, chosen so that its NF4 codes carry most information (arXiv 2402.05445).

tau = f max|w - median| + median with f over 2 n + 1 points of [-lambda sigma, lambda sigma], where sigma is
1 / Phi^-1(.9677083); the f whose 16 code frequencies have the highest entropy. The block less tau is NF4; tau is added
back.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from pydantic import Field
from torch import Tensor

from corral.models.quantized import NormalFloatWeight
from corral.models.quantized.normal_float import NF4_LEVELS
from corral.quant.methods.base import Bits, LinearLayer
from corral.quant.methods.nf4 import Nf4, blocks_of, nf4_codes

SIGMA: Final = 0.5410872
"""1 / Phi^-1(.9677083), which a test computes."""
_CHUNK: Final = 4096  # blocks at a time


class Icq(Nf4):
    """Settings of ICQ.

    Attributes:
        reach: lambda.
        points: n.
    """

    reach: float = Field(default=0.1, ge=0)
    points: int = Field(default=100, ge=0)

    def expected_bits(self, rows: int, columns: int) -> Bits:
        """See ``Method``: a shift a block beside NF4."""
        nominal, stored = super().expected_bits(rows, columns)
        return Bits(nominal, stored + self._int8_bits(math.ceil(rows * columns / self.block_size)) / (rows * columns))

    def fit(self, layer: LinearLayer) -> NormalFloatWeight:
        """See ``Method``."""
        blocks_Kb = blocks_of(layer.weight, self.block_size)
        return self.pack(layer.weight, torch.cat([self.shifts(part) for part in torch.split(blocks_Kb, _CHUNK)]))

    def shifts(self, blocks_Kb: Tensor) -> Tensor:
        """tau of each block (K,)."""
        median_K = blocks_Kb.median(1).values
        reach_K = (blocks_Kb - median_K[:, None]).abs().amax(1)
        best, highest = median_K, code_entropy(blocks_Kb - median_K[:, None])
        for factor in torch.linspace(-self.reach * SIGMA, self.reach * SIGMA, 2 * self.points + 1).tolist():
            shifts_K = factor * reach_K + median_K
            entropy_K = code_entropy(blocks_Kb - shifts_K[:, None])
            better = entropy_K > highest
            best, highest = torch.where(better, shifts_K, best), torch.where(better, entropy_K, highest)
        return best


def code_entropy(blocks_Kb: Tensor) -> Tensor:
    """Entropy in bits of the code frequencies of each block (K,)."""
    codes_Kb = nf4_codes(blocks_Kb, blocks_Kb.abs().amax(1)).long()
    counts = torch.zeros(len(blocks_Kb), len(NF4_LEVELS)).scatter_add_(1, codes_Kb, torch.ones_like(blocks_Kb))
    shares = counts / blocks_Kb.shape[1]
    nats: Tensor = -torch.special.xlogy(shares, shares).sum(1)
    return nats / math.log(2)
