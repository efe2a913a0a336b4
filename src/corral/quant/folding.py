"""Moving scales between layers without changing what they compute: x / t before, W diag(t) after."""

from __future__ import annotations

from torch import Tensor, nn


def divide_norm(norm: nn.Module, scales_n: Tensor) -> None:
    """Let an RMS norm's output be divided by t, in place."""
    weight = norm.get_parameter("weight")
    weight.data = weight.data / scales_n


def divide_rows(linear: nn.Linear, scales_m: Tensor) -> None:
    """Let a Linear's output be divided by t, in place."""
    linear.weight.data = linear.weight.data / scales_m[:, None]
    if linear.bias is not None:
        linear.bias.data = linear.bias.data / scales_m


def multiply_columns(linear: nn.Linear, scales_n: Tensor) -> None:
    """Let a Linear read inputs that were divided by t, in place."""
    linear.weight.data = linear.weight.data * scales_n
