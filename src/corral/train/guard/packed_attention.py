"""Attention over packed rows that share a prefix: only scores that are used are computed.

In a group ``[prefix | row 1 | row 2 | ...]`` a token of a row sees the prefix and its own row up to itself. Under one
mask over the sequence most of the scores would be computed to be thrown away. Here the rows of a group, padded to one
length, are a batch of queries against the prefix, which they have in common, and against themselves, with one softmax
over both. Registered with transformers as an attention implementation, so that the model around it stays the library's.

Scores are products in the dtype of the values (bfloat16 under autocast, as in transformers' eager attention), the
softmax sums in float32.

Legend: T tokens of the packed sequence, P of a group's prefix, S rows of a group, L tokens of the longest of them
(without prefix), H query heads, K key heads, G query heads a key head, E head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

PACKED_ATTENTION: Final = "corral_packed"
"""The name under which transformers knows it."""

GroupLayout = Mapping[str, Tensor]


def group_layout(shared: int, lengths: Sequence[int]) -> GroupLayout:
    """Where the tokens of a group are, counted from its start.

    Args:
        shared: P, tokens of the prefix, which may be none.
        lengths: tokens of each row without the prefix, at least one each.

    Returns:
        ``prefix`` (P) and ``rows`` (S, L), places in the group, with the row's last one for padding; ``real``, the
        places in the flattened (S, L) that are not padding.
    """
    longest = max(lengths)
    length_S = torch.tensor(lengths)
    start_S = shared + length_S.cumsum(0) - length_S
    column_L = torch.arange(longest)
    rows_SL = start_S[:, None] + torch.minimum(column_L[None], length_S[:, None] - 1)
    real = (column_L[None] < length_S[:, None]).flatten().nonzero().squeeze(1)
    return {"prefix": torch.arange(shared), "rows": rows_SL, "real": real}


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: Sequence[GroupLayout],
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of a packed sequence, as transformers calls it.

    Args:
        module: unused.
        query: (1, H, T, E).
        key, value: (1, K, T, E).
        attention_mask: unused; the layout says what is seen.
        scaling: factor of the scores.
        layout: of the groups, in the order they stand in the sequence.

    Returns:
        (1, T, H, E), and no weights.
    """
    with torch.autocast(query.device.type, enabled=False):
        # Tokens first; the rotary embedding leaves query and key in float32 under autocast.
        query_THE = (query[0] * scaling).to(value.dtype).transpose(0, 1)
        key_TKE = key[0].to(value.dtype).transpose(0, 1)
        value_TKE = value[0].transpose(0, 1)
        mixed = []
        start = 0
        for group in layout:
            stop = start + len(group["prefix"]) + len(group["real"])
            mixed.append(_group_attention(query_THE[start:stop], key_TKE[start:stop], value_TKE[start:stop], group))
            start = stop
        return torch.cat(mixed)[None], None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)


def _group_attention(query: Tensor, key: Tensor, value: Tensor, group: GroupLayout) -> Tensor:
    """(tokens of the group, H, E): of the prefix, if there is one, and of its rows."""
    shared = len(group["prefix"])
    own = _rows_attention(query, key, value, group)
    if not shared:
        return own
    alone = {"prefix": group["prefix"][:0], "rows": group["prefix"][None], "real": group["prefix"]}
    return torch.cat([_rows_attention(query[:shared], key[:shared], value[:shared], alone), own])


def _rows_attention(query: Tensor, key: Tensor, value: Tensor, group: GroupLayout) -> Tensor:
    """(real tokens of the rows, H, E): rows over the prefix and over themselves."""
    rows_SL = group["rows"]
    rows, longest = rows_SL.shape
    shared = len(group["prefix"])
    heads, key_heads, size = query.shape[1], key.shape[1], query.shape[2]
    cells = rows_SL.flatten()
    query_KSE = (
        query.index_select(0, cells)
        .view(rows, longest, key_heads, -1, size)
        .permute(2, 0, 3, 1, 4)
        .reshape(key_heads * rows, -1, size)
    )  # (K S, G L, E)
    own_key, own_value = (
        part.index_select(0, cells).view(rows, longest, key_heads, size).permute(2, 0, 1, 3).flatten(0, 1)
        for part in (key, value)
    )  # (K S, L, E)
    scores = _causal(query_KSE @ own_key.transpose(1, 2), longest)
    if shared:
        prefix_key, prefix_value = (part[:shared].transpose(0, 1) for part in (key, value))  # (K, P, E)
        wide = query_KSE.view(key_heads, -1, size)  # (K, S G L, E)
        scores = torch.cat([(wide @ prefix_key.transpose(1, 2)).view(*scores.shape[:2], shared), scores], dim=-1)
    weights = scores.softmax(-1)
    mixed = weights[..., shared:] @ own_value
    if shared:
        seen = weights[..., :shared].reshape(key_heads, -1, shared) @ prefix_value
        mixed = mixed + seen.view(mixed.shape)
    mixed = mixed.view(key_heads, rows, -1, longest, size).permute(1, 3, 0, 2, 4).reshape(-1, heads, size)
    return mixed.index_select(0, group["real"])


def _causal(scores: Tensor, longest: int) -> Tensor:
    """Scores (K S, G L, L) with -inf where a token would see a later one of its row."""
    future_LL = torch.ones(longest, longest, dtype=torch.bool, device=scores.device).triu(1)
    return scores.view(scores.shape[0], -1, longest, longest).masked_fill(future_LL, -torch.inf).view(scores.shape)
