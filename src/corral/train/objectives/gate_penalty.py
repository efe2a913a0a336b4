"""MoGU's penalty on the gates: the reluctant one open on malicious instructions, the eager one on all others.

With y = 1 for a malicious row and 0 for a benign one, averaged over layers and over the real tokens of a row, prompt
and answer alike::

    l2:  (a - y)^2 + (b - (1 - y))^2          l1:  |a - y| + |b - (1 - y)|

Source: MoGU (arXiv 2405.14488), stage 3: its released code squares, the paper may mean the absolute difference.

Legend: L layers, B rows, T tokens.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Norm = Literal["l2", "l1"]


def gate_penalty(
    unwill_LBT: Tensor, glad_LBT: Tensor, malicious_B: Tensor, mask_BT: Tensor, *, norm: Norm = "l2"
) -> Tensor:
    """Penalty of each row, shape (B,).

    Args:
        unwill_LBT: gates of the reluctant expert.
        glad_LBT: gates of the eager one.
        malicious_B: 1 for malicious rows, 0 for benign ones.
        mask_BT: true on real tokens; each row has one.
        norm: of the difference.
    """
    wanted_B1 = malicious_B[:, None].to(unwill_LBT.dtype)
    off_LBT, other_LBT = unwill_LBT - wanted_B1, glad_LBT - (1 - wanted_B1)
    each_LBT = off_LBT.square() + other_LBT.square() if norm == "l2" else off_LBT.abs() + other_LBT.abs()
    return each_LBT.mean(dim=0).masked_fill(~mask_BT, 0.0).sum(dim=-1) / mask_BT.sum(dim=-1)
