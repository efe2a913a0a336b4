"""What the inputs of a Linear look like over the calibration text.

Legend: N tokens, n input channels, R rows kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from corral.core.errors import DataError

ROWS: Final = 512
"""Token rows that are kept for searches."""


@dataclass(frozen=True, slots=True)
class InputStatistics:
    """Of one input, which several Linears may share.

    Attributes:
        tokens: N.
        mean_abs: (n,), mean of |x|.
        max_abs: (n,), largest |x|.
        rows: (R, n), at most ``ROWS`` tokens, spread evenly over the text.
        hessian: H (n, n) = (2 / N) sum x x^T, float32; ``None`` where it was not asked for.
    """

    tokens: int
    mean_abs: Tensor
    max_abs: Tensor
    rows: Tensor
    hessian: Tensor | None

    def divided(self, scales_n: Tensor) -> InputStatistics:
        """Of the inputs x / t."""
        return replace(
            self,
            mean_abs=self.mean_abs / scales_n,
            max_abs=self.max_abs / scales_n,
            rows=self.rows / scales_n,
            hessian=None if self.hessian is None else self.hessian / scales_n / scales_n[:, None],
        )


class InputAccumulator:
    """Adds up ``InputStatistics`` batch by batch.

    Args:
        channels: n.
        total_tokens: N of the whole text, so that the kept rows are spread over it.
        hessian: whether to add up H.
    """

    def __init__(self, channels: int, total_tokens: int, *, hessian: bool) -> None:
        self._step = max(1, math.ceil(total_tokens / ROWS))
        self._tokens = 0
        self._sum_abs = torch.zeros(channels, dtype=torch.float64)
        self._max_abs = torch.zeros(channels)
        self._rows: list[Tensor] = []
        self._products = torch.zeros(channels, channels) if hessian else None

    def add(self, inputs: Tensor) -> None:
        """Count inputs (..., n)."""
        rows_Nn = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        magnitudes = rows_Nn.abs()
        self._sum_abs += magnitudes.sum(0)
        self._max_abs = torch.maximum(self._max_abs, magnitudes.amax(0))
        self._rows.append(rows_Nn[-self._tokens % self._step :: self._step].clone())
        self._tokens += len(rows_Nn)
        if self._products is not None:
            self._products.addmm_(rows_Nn.t(), rows_Nn)

    def finish(self, where: str) -> InputStatistics:
        """The statistics of all that was added.

        Raises:
            DataError: inputs that are not finite, or none at all.
        """
        if not self._tokens or not bool(torch.isfinite(self._max_abs).all()):
            raise DataError(
                "the layer reads values that are not finite" if self._tokens else "the layer was never reached",
                where=where,
                hint="The model overflows on the calibration text, or its blocks are not those of a Llama.",
            )
        return InputStatistics(
            tokens=self._tokens,
            mean_abs=(self._sum_abs / self._tokens).float(),
            max_abs=self._max_abs,
            rows=torch.cat(self._rows),
            hessian=None if self._products is None else self._products * (2 / self._tokens),
        )


def proxy_loss(weight_mn: Tensor, quantized_mn: Tensor, hessian_nn: Tensor) -> float:
    """tr((W - Q) H (W - Q)^T) / tr(W H W^T): the share of a Linear's output, in squares, that is lost."""
    lost = _trace(weight_mn - quantized_mn, hessian_nn)
    return lost / max(_trace(weight_mn, hessian_nn), torch.finfo(torch.float32).tiny)


def _trace(matrix_mn: Tensor, hessian_nn: Tensor) -> float:
    return float(((matrix_mn @ hessian_nn) * matrix_mn).sum(dtype=torch.float64))
