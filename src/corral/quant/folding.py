"""Moving scales between layers without changing what they compute: x / t before, W diag(t) after.

Where a scale may go is a property of Llama's blocks: a norm whose output is its weight times something, directly before
the Linears; v_proj before o_proj, up_proj before down_proj. A block that is named alike may compute otherwise: Gemma's
norms multiply by 1 + weight, and its ``post_attention_layernorm`` does not precede the feed-forward layer. So
``check_folds`` tries folds before any work.

Legend: n channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from corral.core.errors import ConfigError
from corral.quant.blocks import BlockStream

Folds = Mapping[tuple[str, ...], str]
"""Groups of Linears that read the same input, and the norm or Linear that makes it."""

_MOST_CHANGE: Final = 1e-3
"""Of what a block adds to its states, as a share of its norm; rounding of float32 is a hundredth of it."""


def fold(block: nn.Module, group: tuple[str, ...], before: str, scales_n: Tensor) -> None:
    """Divide what a group of Linears reads by t, in place, where it is made, and multiply their columns."""
    source = block.get_submodule(before)
    if isinstance(source, nn.Linear):
        _divide_rows(source, scales_n)
    else:
        weight = source.get_parameter("weight")
        weight.data = weight.data / scales_n
    for name in group:
        columns = block.get_parameter(f"{name}.weight")
        columns.data = columns.data * scales_n


def can_fold(block: nn.Module, group: tuple[str, ...], before: str) -> bool:
    """Whether a Linear makes as many channels as a group reads: with grouped queries v_proj makes fewer."""
    return block.get_parameter(f"{before}.weight").shape[0] == block.get_parameter(f"{group[0]}.weight").shape[1]


def check_folds(blocks: Mapping[str, nn.Module], folds: Folds, stream: BlockStream, *, model_type: str) -> None:
    """Whether a block computes the same after a fold, tried with random scales on one block of each kind.

    Args:
        blocks: by name; they are as before when this returns.
        folds: that a method makes.
        stream: at the first block.
        model_type: for messages.

    Raises:
        ConfigError: a block has no such norm, or computes something else after a fold into it.
    """
    tried: set[tuple[type[nn.Module], ...]] = set()
    for name, block in blocks.items():
        modules = dict(block.named_modules())
        for group, before in folds.items():
            if not isinstance(getattr(modules.get(before), "weight", None), Tensor):
                raise _refusal(model_type, f"`{name}` has no `{before}` before `{group[0]}`")
        kind = (type(block), *(type(modules[before]) for before in folds.values()))
        if kind not in tried:
            tried.add(kind)
            _try_folds(name, block, folds, stream, model_type)


def _try_folds(name: str, block: nn.Module, folds: Folds, stream: BlockStream, model_type: str) -> None:
    states, outputs = stream.outputs(block)
    added = (outputs - states).norm()
    generator = torch.Generator().manual_seed(0)
    for group, before in folds.items():
        if not can_fold(block, group, before):
            continue
        kept = {key: values.data for key, values in block.named_parameters()}
        channels = block.get_parameter(f"{before}.weight").shape[0]
        fold(block, group, before, 0.5 + 1.5 * torch.rand(channels, generator=generator))
        _, folded = stream.outputs(block)
        for key, values in block.named_parameters():
            values.data = kept[key]
        if not (folded - outputs).norm() <= _MOST_CHANGE * added:
            raise _refusal(model_type, f"after a fold into its `{before}`, `{name}` computes something else")


def _refusal(model_type: str, reason: str) -> ConfigError:
    return ConfigError(
        f"scales cannot be folded into the blocks of a `{model_type}`: {reason}",
        where="method",
        hint="Use a method that folds none: rtn, gptq, quip, or another that `corral quantize --help` names.",
    )


def _divide_rows(linear: nn.Linear, scales_n: Tensor) -> None:
    linear.weight.data = linear.weight.data / scales_n[:, None]
    if linear.bias is not None:
        linear.bias.data = linear.bias.data / scales_n
