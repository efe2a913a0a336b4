"""Steering: adding a direction to the residual stream, or taking one out of it.

Adding happens at the input of one block and, by default, while the prompt is read (arXiv 2507.11878); ablation happens
at every block input and every attention and MLP output, or once and for all in the weights (arXiv 2406.11717, section
2.4). All arithmetic is out of place, so gradients flow through it.

Legend: B sequences, T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from corral.core.errors import ConfigError
from corral.models.sites import Site, blocks, hooked

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@contextmanager
def steered(
    decoder: nn.Module,
    vector_D: Tensor,
    *,
    layer: int,
    coefficient: float = 1.0,
    positions: slice | Tensor | None = None,
    prefill_only: bool = True,
) -> Iterator[None]:
    """Add ``coefficient * vector`` to the input of one block in every forward pass of the block.

    Args:
        decoder: a transformers decoder stack.
        vector_D: the direction, of any length; cast to the states' dtype and device.
        layer: whose input is changed; the number of layers for the raw output of the last.
        coefficient: 0 changes nothing.
        positions: columns of the padded batch, or a boolean mask (B, T); all tokens when ``None``. Generation pads on
            the left, so ``slice(None, -n)`` spares the last ``n`` tokens of every prompt.
        prefill_only: passes that continue a filled cache (decoding) are left alone; what they attend to is steered.

    Raises:
        ConfigError: no such layer, or a vector that is not (D,) or not finite.
    """
    _check_vector(decoder, vector_D)
    steering, thread = True, threading.get_ident()

    def before_pass(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal steering
        if threading.get_ident() != thread:
            return  # as for the hooks themselves: another thread may use the model meanwhile
        cache = kwargs.get("past_key_values")
        steering = not prefill_only or cache is None or cache.get_seq_length() == 0

    def add(states_BTD: Tensor) -> Tensor | None:
        if not steering or coefficient == 0:
            return None
        shift_D = coefficient * vector_D.to(states_BTD)
        if positions is None:
            return states_BTD + shift_D
        mask_BT1 = _mask(states_BTD, positions)
        return states_BTD + mask_BT1 * shift_D

    handle = decoder.register_forward_pre_hook(before_pass, with_kwargs=True)
    try:
        with hooked(decoder, [(Site("residual", layer), add)]):
            yield
    finally:
        handle.remove()


@contextmanager
def ablated(decoder: nn.Module, direction_D: Tensor) -> Iterator[None]:
    """Take a direction out of everything that is written to the residual stream: x - (x . r) r.

    At every block input and every attention and MLP output, at all tokens, in every pass of the block.

    Args:
        decoder: a transformers decoder stack.
        direction_D: of any length but 0.

    Raises:
        ConfigError: a direction that is not (D,), not finite, or zero.
    """
    unit_D = _unit(decoder, direction_D)

    def remove(states_BTD: Tensor) -> Tensor:
        r_D = unit_D.to(states_BTD)
        return states_BTD - (states_BTD @ r_D)[..., None] * r_D

    layers = range(len(blocks(decoder)))
    sites = [Site(kind, layer) for layer in layers for kind in ("residual", "attention", "mlp")]
    with hooked(decoder, [(site, remove) for site in sites]):
        yield


def orthogonalise_weights(model: PreTrainedModel, direction_D: Tensor) -> None:
    """Take a direction out of all weights that write to the residual stream, in place.

    Embedding, attention output and MLP output. Computes what ``ablated`` does, without hooks. Where the head shares
    the embedding's weights it is given its own copy first, since it reads the stream and does not write to it.

    Args:
        model: a causal language model of the Llama family.
        direction_D: of any length but 0.

    Raises:
        ConfigError: a direction as for ``ablated``, or layers without ``o_proj`` or ``down_proj``.
    """
    import torch

    decoder: Any = model.base_model
    unit_D = _unit(decoder, direction_D)
    writers = [_writer(block, part, name) for block in blocks(decoder) for part, name in _WRITERS]
    with torch.no_grad():
        _untie(model)
        embedding_VD = decoder.get_input_embeddings().weight
        r_D = unit_D.to(embedding_VD)
        embedding_VD -= (embedding_VD @ r_D)[:, None] * r_D
        for linear in writers:
            r_D = unit_D.to(linear.weight)
            linear.weight -= r_D[:, None] * (r_D @ linear.weight)
            if linear.bias is not None:
                linear.bias -= (linear.bias @ r_D) * r_D


_WRITERS = (("self_attn", "o_proj"), ("mlp", "down_proj"))


def _writer(block: nn.Module, part: str, name: str) -> Any:
    import torch

    linear = getattr(getattr(block, part, None), name, None)
    if not isinstance(linear, torch.nn.Linear):
        raise ConfigError(
            f"a layer of this model has no plain `{part}.{name}`", hint="Use the hook form, `ablated`, instead."
        )
    return linear


def _untie(model: PreTrainedModel) -> None:
    import torch

    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
        model.config.tie_word_embeddings = False


def _mask(states_BTD: Tensor, positions: slice | Tensor) -> Tensor:
    import torch

    if not isinstance(positions, slice):
        if positions.shape != states_BTD.shape[:2]:
            raise ConfigError(
                f"a mask of shape `{tuple(positions.shape)}` for states of shape `{tuple(states_BTD.shape)}`",
                where="positions",
            )
        return positions.to(states_BTD)[..., None]
    mask_1T1 = torch.zeros(1, states_BTD.shape[1], 1, dtype=states_BTD.dtype, device=states_BTD.device)
    mask_1T1[:, positions] = 1
    return mask_1T1


def _unit(decoder: nn.Module, direction_D: Tensor) -> Tensor:
    _check_vector(decoder, direction_D)
    # In double precision: what is left along the direction is then the rounding of the states alone.
    direction_D = direction_D.double()
    norm = direction_D.norm()
    if norm == 0:
        raise ConfigError("a direction of length 0 cannot be ablated", where="direction")
    unit_D: Tensor = direction_D / norm
    return unit_D


def _check_vector(decoder: nn.Module, vector_D: Tensor) -> None:
    import torch

    size = int(getattr(decoder.config, "hidden_size", 0))
    if vector_D.shape != (size,):
        raise ConfigError(f"shape `{tuple(vector_D.shape)}`, the model's states have ({size},)", where="direction")
    if not torch.isfinite(vector_D).all():
        raise ConfigError("holds values that are not finite", where="direction")
