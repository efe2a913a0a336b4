"""Weight matrices to multiply by, in oneDNN's own order of elements where that can be had.

torch's matrix product brings a bfloat16 weight into that order anew at every call, which takes longer than the product
itself when there are few tokens, and its float32 product is another library's, slower here. The reordered copy is made
once; a model beyond ``REORDER_BYTES`` is multiplied as it is, since it would be held twice.

oneDNN compiles a product for every number of rows and keeps the last thousand, most of a megabyte each: a server
that meets texts of all lengths would grow by hundreds of megabytes. So rows of zeros bring the number to one of few.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

REORDER_BYTES: Final = 2**30

ROWS: Final = 512
"""Of the other factor, that the order is chosen for; any number can be multiplied."""


class Rows(NamedTuple):
    """Inputs as a matrix multiplies them; several matrices of one kind take the same.

    Attributes:
        values: (N, inputs), contiguous.
        scales_N1: what the values are in units of, in float32; ``None`` where they are the inputs themselves.
    """

    values: Tensor
    scales_N1: Tensor | None = None


class Factor(Protocol):
    """A weight (outputs, inputs) without bias, to multiply by."""

    def prepare(self, inputs_Nx: Tensor, room: Tensor) -> Rows:
        """The inputs, as products take them.

        Args:
            inputs_Nx: contiguous, float32 or of the model's dtype.
            room: of the model's dtype; the outcome may be written into its first rows.
        """

    def __call__(self, rows: Rows) -> Tensor:
        """The product (N, outputs), float32 or of the model's dtype; the caller's to change."""


class Addend(Factor, Protocol):
    """A factor whose product is added to something."""

    def add_to(self, sums_Nx: Tensor, rows: Rows, room: Tensor) -> None:
        """Add the product, in place.

        Args:
            sums_Nx: (N, outputs), float32.
            rows: as ``prepare`` gave them.
            room: float32; may be written to.
        """


class Matrix:
    """A weight (outputs, inputs) without bias, in its own dtype.

    Args:
        weight: it; kept, or copied in another order.
        reorder: copy.
    """

    def __init__(self, weight: Tensor, *, reorder: bool) -> None:
        self._reordered: Any = None
        if reorder and can_reorder():
            self._reordered = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
        self._weight = None if self._reordered is not None else weight
        self._dtype = weight.dtype

    def prepare(self, inputs_Nx: Tensor, room: Tensor) -> Rows:
        """The inputs in the weight's dtype."""
        return Rows(inputs_Nx if inputs_Nx.dtype == self._dtype else room[: len(inputs_Nx)].copy_(inputs_Nx))

    def __call__(self, rows: Rows) -> Tensor:
        """The product (N, outputs), in the weight's dtype."""
        if self._weight is not None:
            return rows.values @ self._weight.t()
        return self._pointwise(with_usual_rows(rows.values), "none")[: len(rows.values)]

    def add_to(self, sums_Nx: Tensor, rows: Rows, room: Tensor) -> None:
        """See ``Addend``."""
        product = self(rows)
        # A sum of two dtypes would make the wide copy itself, in memory of its own.
        sums_Nx.add_(product if product.dtype == sums_Nx.dtype else room[: len(product)].copy_(product))

    def gated(self, up: Matrix, rows: Rows) -> Tensor:
        """``silu(self(rows)) * up(rows)``: a reordered matrix does both before it writes the product."""
        if self._weight is not None or up._reordered is None:
            return F.silu(self(rows), inplace=True).mul_(up(rows))
        values = with_usual_rows(rows.values)
        gate = self._pointwise(values, "swish")
        product: Tensor = torch.ops.mkldnn._linear_pointwise.binary(values, gate, up._reordered, None, "mul")
        return product[: len(rows.values)]

    def _pointwise(self, values: Tensor, then: str) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(values, self._reordered, None, then, [], "")
        return product


class GatedMatrix:
    """``silu`` of a product times another of the same inputs.

    Args:
        gate: goes through the activation.
        up: as many outputs, in the same order of elements.
    """

    def __init__(self, gate: Matrix, up: Matrix) -> None:
        self._gate, self._up = gate, up

    def prepare(self, inputs_Nx: Tensor, room: Tensor) -> Rows:
        """The inputs in the weights' dtype."""
        return self._gate.prepare(inputs_Nx, room)

    def __call__(self, rows: Rows) -> Tensor:
        """The outcome (N, outputs), in the weights' dtype."""
        return self._gate.gated(self._up, rows)


def usual_count(count: int) -> int:
    """The next of few numbers: multiples of 8, of 16 beyond 64, of 64 beyond 256."""
    step = 8 if count <= 64 else 16 if count <= 256 else 64
    return -(-count // step) * step


def with_usual_rows(values: Tensor) -> Tensor:
    """The rows, and as many of zeros as make a usual number; see the module."""
    missing = usual_count(len(values)) - len(values)
    return values if missing == 0 else torch.cat([values, values.new_zeros(missing, values.shape[1])])


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
