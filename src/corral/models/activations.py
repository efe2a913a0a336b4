"""Hidden states inside a decoder, computing no layer that is not asked for.

Legend: B sequences, T tokens, D hidden size, P positions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from corral.core.errors import ConfigError
from corral.models.batching import PaddedBatch

if TYPE_CHECKING:
    from torch import Tensor, nn

Positions = Literal["last", "all"] | Sequence[int]


class _HighestLayerReachedError(Exception):
    """Leaves the forward pass; never seen outside this module."""


def hidden_states(decoder: nn.Module, batch: PaddedBatch, layers: Sequence[int]) -> dict[int, Tensor]:
    """The residual stream after the given layers, stopping after the highest.

    Args:
        decoder: a transformers decoder stack with ``layers`` (``LlamaModel`` and its kin).
        batch: on the decoder's device, padded on either side.
        layers: 0 for the embeddings, ``i`` for the output of the ``i``-th layer. Unlike transformers'
            ``output_hidden_states``, the last one is taken before the final norm.

    Returns:
        Layer to (B, T, D); values on padding mean nothing.

    Raises:
        ConfigError: a layer that the model does not have, or a model whose layers cannot be found.
    """
    import torch

    stack = getattr(decoder, "layers", None)
    if not isinstance(stack, torch.nn.ModuleList):
        raise ConfigError(f"`{type(decoder).__name__}` has no list of layers")
    unknown = [layer for layer in layers if not 0 <= layer <= len(stack)]
    if unknown or not layers:
        raise ConfigError(f"`{unknown or layers}`: the model has layers 0 to {len(stack)}", where="layers")
    found: dict[int, Tensor] = {}
    with _recording(stack, set(layers), found), suppress(_HighestLayerReachedError):
        decoder(
            input_ids=batch.input_ids_BT,
            attention_mask=batch.attention_mask_BT,
            position_ids=batch.position_ids_BT,
            use_cache=False,
        )
    return found


def select_positions(states_TD: Tensor, positions: Positions) -> Tensor:
    """Rows (P, D) of one sequence's states.

    Args:
        states_TD: states of one sequence without padding.
        positions: ``last``, ``all``, or indices, negative ones counted from the end.

    Raises:
        ConfigError: an index outside the sequence.
    """
    if positions == "all":
        return states_TD
    if positions == "last":
        return states_TD[-1:]
    length = len(states_TD)
    outside = [position for position in positions if not -length <= int(position) < length]
    if outside:
        raise ConfigError(f"`{outside}` is outside a prompt of {length} tokens", where="positions")
    return states_TD[[int(position) % length for position in positions]]


@contextmanager
def _recording(stack: nn.ModuleList, layers: set[int], found: dict[int, Tensor]) -> Iterator[None]:
    """Hooks that put what the layers give into ``found`` and leave the forward pass after the highest.

    They act in this thread only, so another thread may run the same model meanwhile.
    """
    thread = threading.get_ident()
    highest = max(layers)

    def keep(layer: int, states: Tensor) -> None:
        if threading.get_ident() != thread:
            return
        if layer in layers:
            found[layer] = states
        if layer == highest:
            raise _HighestLayerReachedError

    def embeddings_hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        keep(0, inputs[0])

    def layer_hook(number: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # transformers 5 returns the tensor itself, some architectures still a tuple around it.
            keep(number, output[0] if isinstance(output, tuple) else output)

        return hook

    handles = [stack[0].register_forward_pre_hook(embeddings_hook)] if 0 in layers else []
    handles += [stack[number - 1].register_forward_hook(layer_hook(number)) for number in layers if number > 0]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
