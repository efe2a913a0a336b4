"""Hidden states inside a decoder, at chosen sites and tokens, computing no layer that is not asked for.

Legend: B sequences, T tokens, D hidden size, P positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from corral.core.errors import ConfigError
from corral.models.batching import PaddedBatch
from corral.models.sites import Site, SiteHook, blocks, hooked

if TYPE_CHECKING:
    from torch import Tensor, nn

Positions = Literal["last", "all"] | Sequence[int]


class _LastSiteReachedError(Exception):
    """Leaves the forward pass; never seen outside this module."""


@contextmanager
def capture(
    decoder: nn.Module, sites: Sequence[Site], *, positions_BP: Tensor | None = None, stop: bool = False
) -> Iterator[dict[Site, Tensor]]:
    """Record the states of sites in every forward pass of the block; hooks are removed however it ends.

    Args:
        decoder: a transformers decoder stack with ``layers``.
        sites: what to record; a later pass replaces what an earlier one left.
        positions_BP: int64 columns of the padded batch to keep, so that whole sequences are not held; all if ``None``.
        stop: leave the forward pass, and the block, at the last of the sites, so that nothing above is computed.

    Yields:
        Site to (B, T, D), or (B, P, D) with positions. Not copied: steering hooked in earlier is in it.

    Raises:
        ConfigError: no sites, or one that the model does not have.
    """
    if not sites:
        raise ConfigError(f"`[]`: the model has layers 0 to {len(blocks(decoder))}", where="layers")
    found: dict[Site, Tensor] = {}
    last = max(sites, key=lambda site: site.order)

    def keep(site: Site) -> SiteHook:
        def hook(states_BTD: Tensor) -> None:
            found[site] = states_BTD if positions_BP is None else _columns(states_BTD, positions_BP)
            if stop and site == last:
                raise _LastSiteReachedError

        return hook

    with hooked(decoder, [(site, keep(site)) for site in dict.fromkeys(sites)]):
        try:
            yield found
        except _LastSiteReachedError:
            return


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
    with capture(decoder, [Site("residual", layer) for layer in layers], stop=True) as found:
        decoder(
            input_ids=batch.input_ids_BT,
            attention_mask=batch.attention_mask_BT,
            position_ids=batch.position_ids_BT,
            use_cache=False,
        )
    return {site.layer: states for site, states in found.items()}


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


def _columns(states_BTD: Tensor, positions_BP: Tensor) -> Tensor:
    import torch

    rows_B1 = torch.arange(len(positions_BP), device=states_BTD.device)[:, None]
    return states_BTD[rows_B1, positions_BP.to(states_BTD.device)]
