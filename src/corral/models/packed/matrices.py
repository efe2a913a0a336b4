"""Weight matrices to multiply by, in oneDNN's own order of elements where that can be had.

torch's matrix product brings a bfloat16 weight into that order anew at every call, which takes longer than the product
itself when there are few tokens, and its float32 product is another library's, slower here. The reordered copy is made
once; a model beyond ``REORDER_BYTES`` is multiplied as it is, since it would be held twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, nn

REORDER_BYTES: Final = 2**30

_ROWS: Final = 512  # of the other factor that the order is chosen for; any number can be multiplied


class Matrix:
    """A weight (outputs, inputs) without bias.

    Args:
        weight: it; kept, or copied in another order.
        reorder: copy.
    """

    def __init__(self, weight: Tensor, *, reorder: bool) -> None:
        self._reordered: Any = None
        if reorder and can_reorder():
            self._reordered = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
        self._weight = None if self._reordered is not None else weight

    def __call__(self, inputs_Nx: Tensor) -> Tensor:
        """The product (N, outputs) with contiguous inputs (N, inputs)."""
        if self._weight is not None:
            return inputs_Nx @ self._weight.t()
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs_Nx, self._reordered, None, "none", [], "")
        return product


@cache
def can_reorder() -> bool:
    """Whether this torch has oneDNN and lets it reorder weights."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def stacked(weights: Sequence[nn.Parameter], *, reorder: bool) -> Matrix:
    """One matrix of all rows. Without a copy, the parameters become views of it, so that nothing is held twice."""
    if reorder:
        return Matrix(torch.cat([weight.detach() for weight in weights]), reorder=True)
    return Matrix(stack_rows(weights), reorder=False)


def stack_rows(weights: Sequence[nn.Parameter]) -> Tensor:
    """One matrix of all rows, of which the parameters become views; a matrix stacked before is found again."""
    first = weights[0].data
    if _follow_each_other(weights):
        rows = sum(len(weight) for weight in weights)
        return first.as_strided((rows, first.shape[1]), first.stride())
    joined = torch.cat([weight.data for weight in weights])
    for weight, part in zip(weights, torch.split(joined, [len(weight) for weight in weights]), strict=True):
        weight.data = part
    return joined


def _follow_each_other(weights: Sequence[nn.Parameter]) -> bool:
    """Whether each matrix begins where the one before it ends, in one allocation."""
    expected = weights[0].data_ptr()
    storage = weights[0].untyped_storage().data_ptr()
    for weight in weights:
        if weight.data_ptr() != expected or weight.untyped_storage().data_ptr() != storage:
            return False
        if not weight.is_contiguous():
            return False
        expected += weight.numel() * weight.element_size()
    return True
