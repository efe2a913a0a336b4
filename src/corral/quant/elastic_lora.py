"""IEC: IR-QLoRA's adapter, a LoRA whose halves are bridged by constant matrices (arXiv 2402.05445, section 3.3).

x' = A x + l1 (means of the r consecutive groups of n / r inputs) and y = B x' + l2 (each x' repeated m / r times), l1
and l2 starting at 0: then it is LoRA. Means and repeats are multiplications by constant matrices, so it merges:
dW = alpha / r (B + l2 R) (A + l1 M).

Legend: m outputs, n inputs, r rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from corral.core.errors import ConfigError


class ElasticLora(nn.Module):
    """What the adapter adds to a layer's output.

    Args:
        inputs: n.
        outputs: m.
        rank: r; divides both.
        alpha: the sum is multiplied by alpha / r.
        seed: of A; B starts at zero.

    Raises:
        ConfigError: the rank does not divide both sides.
    """

    def __init__(self, inputs: int, outputs: int, *, rank: int, alpha: float, seed: int = 0) -> None:
        super().__init__()
        if rank < 1 or inputs % rank or outputs % rank:
            raise ConfigError(
                f"rank `{rank}` does not divide {inputs} inputs and {outputs} outputs",
                where="rank",
                hint=f"For example {math.gcd(inputs, outputs)}.",
            )
        bound = inputs**-0.5  # of Kaiming's uniform initialisation as LoRA uses it
        start_rn = torch.rand(rank, inputs, generator=torch.Generator().manual_seed(seed)) * 2 * bound - bound
        self.down = nn.Parameter(start_rn)
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        self.bridge_in = nn.Parameter(torch.zeros(()))
        self.bridge_out = nn.Parameter(torch.zeros(()))
        self.rank, self.scale = rank, alpha / rank

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., m) of inputs (..., n)."""
        means = inputs.reshape(*inputs.shape[:-1], self.rank, -1).mean(-1)
        between = F.linear(inputs, self.down) + self.bridge_in * means
        repeated = between.repeat_interleave(len(self.up) // self.rank, -1)
        added: Tensor = self.scale * (F.linear(between, self.up) + self.bridge_out * repeated)
        return added

    @torch.no_grad()
    def delta(self) -> Tensor:
        """dW (m, n): what a merge adds to the weight."""
        outputs, inputs = len(self.up), self.down.shape[1]
        unit = torch.eye(self.rank, device=self.down.device)
        means_rn = unit.repeat_interleave(inputs // self.rank, 1) * (self.rank / inputs)
        repeats_mr = unit.repeat_interleave(outputs // self.rank, 0)
        return self.scale * (self.up + self.bridge_out * repeats_mr) @ (self.down + self.bridge_in * means_rn)
