"""Reading what the routers read: the inputs of the attention outputs' projections.

Legend: B sequences, T tokens, I inputs of the projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from corral.core.errors import ConfigError
from corral.models.sites import blocks

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@contextmanager
def projection_inputs(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[Mapping[int, Tensor]]:
    """Layer to the input (B, T, I) of its ``o_proj`` in the last forward pass of the block; gated or not.

    Raises:
        ConfigError: a layer without ``o_proj``.
    """
    found: dict[int, Tensor] = {}
    stack = blocks(model.base_model)

    def keep(layer: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            found[layer] = args[0]

        return hook

    with ExitStack() as attached:
        for layer in layers:
            projection = getattr(getattr(stack[layer], "self_attn", None), "o_proj", None)
            if projection is None:
                raise ConfigError("the layer has no attention output to gate", where=f"layers.{layer}")
            attached.callback(projection.register_forward_pre_hook(keep(layer)).remove)
        yield found
