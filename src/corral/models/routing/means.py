"""Mean gates of answers while they are begun: what a served mixture tells about each request, without any text.

Legend: B rows, T tokens, L gated layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from corral.models.routing.gated import Gates

MEASURES: Final = ("gate_unwill", "gate_glad")
"""Names of the two means in ``Generation.measures``."""


class GateMeans:
    """Adds up the gates of a batch whose rows leave it as they end."""

    def __init__(self) -> None:
        self._active: list[int] = []
        self._sums: list[list[float]] = []

    def add(self, gates: Mapping[int, Gates], mask_BT: Tensor) -> None:
        """Take the gates of one forward pass.

        Args:
            gates: layer to its gates, (B, T) each.
            mask_BT: 1 on real tokens.
        """
        if not self._sums:
            self._active = list(range(len(mask_BT)))
            self._sums = [[0.0] * (len(MEASURES) + 1) for _ in self._active]
        real_BT = mask_BT.bool()
        sums_B3 = torch.stack(
            [
                *(
                    torch.stack(of_layers).mean(dim=0).masked_fill(~real_BT, 0.0).sum(dim=-1)
                    for of_layers in zip(*gates.values(), strict=True)
                ),
                real_BT.sum(dim=-1).float(),
            ],
            dim=-1,
        )
        for row, added in zip(self._active, sums_B3.tolist(), strict=True):
            self._sums[row] = [before + more for before, more in zip(self._sums[row], added, strict=True)]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these of the rows that are left; nothing where no gates were taken, as in the base's mode."""
        if self._sums:
            self._active = [self._active[row] for row in rows]

    def measures(self) -> list[dict[str, float]]:
        """Of each row, the means over layers and over the tokens that the gated model read: prompt and first tokens."""
        return [
            {name: total / tokens for name, total in zip(MEASURES, totals, strict=True)}
            for *totals, tokens in self._sums
        ]
