"""Grouping sequences of unequal length into batches, and padding them.

Shapes: ``B`` sequences in a batch, ``T`` its longest length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    import torch

PaddingSide = Literal["left", "right"]

_T = TypeVar("_T")


class PaddedBatch(NamedTuple):
    """Token ids as one rectangle.

    Attributes:
        input_ids_BT: int64, the pad value outside the sequences.
        attention_mask_BT: int64, 1 on the sequences and 0 on padding. The mask, never the pad id, says where padding
            is: many models pad with their end-of-sequence token.
        position_ids_BT: int64, each sequence counted from 0 (0 on padding), so that both sides give equal results.
    """

    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    position_ids_BT: torch.Tensor


def token_budget_batches(
    lengths: Sequence[int], max_tokens: int, *, max_sequences: int | None = None
) -> list[list[int]]:
    """Indices grouped into batches of at most ``max_tokens`` padded tokens (longest times count).

    Sequences are taken from long to short (ties in the given order), so a batch holds similar lengths and the largest
    batch comes first: if memory does not suffice, it fails at once. A sequence longer than the budget gets a batch of
    its own; refusing or windowing it is the caller's business.

    Args:
        lengths: tokens of each sequence, each at least 0.
        max_tokens: budget of one batch, at least 1.
        max_sequences: upper bound on the sequences of one batch.

    Returns:
        Lists of indices into ``lengths`` that partition ``range(len(lengths))``.
    """
    if max_tokens < 1 or (max_sequences is not None and max_sequences < 1):
        raise ValueError(f"a batch must hold something: max_tokens `{max_tokens}`, max_sequences `{max_sequences}`")
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        current = batches[-1] if batches else []
        full = longest * (len(current) + 1) > max_tokens or len(current) == max_sequences
        if not current or full:
            batches.append([index])
            longest = lengths[index]
        else:
            current.append(index)
    return batches


def pad(sequences: Sequence[Sequence[int]], *, pad_id: int = 0, side: PaddingSide = "right") -> PaddedBatch:
    """Stack token sequences into one rectangle of the longest length.

    Args:
        sequences: token ids; at least one sequence.
        pad_id: value outside the sequences; any valid id will do, since the mask excludes it.
        side: where the padding goes.
    """
    import torch

    longest = max(len(sequence) for sequence in sequences)
    shape = (len(sequences), longest)
    input_ids = torch.full(shape, pad_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    position_ids = torch.zeros(shape, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        span = sequence_span(len(sequence), longest, side)
        input_ids[row, span] = torch.tensor(sequence, dtype=torch.long)
        attention_mask[row, span] = 1
        position_ids[row, span] = torch.arange(len(sequence))
    return PaddedBatch(input_ids, attention_mask, position_ids)


def unpad(padded_BTx: torch.Tensor, lengths: Sequence[int], side: PaddingSide = "right") -> list[torch.Tensor]:
    """The rows of a padded tensor of shape (B, T, ...) cut back to their lengths."""
    longest = padded_BTx.shape[1]
    return [padded_BTx[row, sequence_span(length, longest, side)] for row, length in enumerate(lengths)]


def sequence_span(length: int, padded_length: int, side: PaddingSide) -> slice:
    """Where a sequence of ``length`` tokens lies in a row of ``padded_length``."""
    return slice(0, length) if side == "right" else slice(padded_length - length, padded_length)


def restore_order(batches: Sequence[Sequence[int]], results: Sequence[Sequence[_T]]) -> list[_T]:
    """Per-batch results in the order of the original sequences.

    Args:
        batches: what ``token_budget_batches`` returned.
        results: one result per index of each batch, in the same nesting.
    """
    placed = {
        i: value for batch, values in zip(batches, results, strict=True) for i, value in zip(batch, values, strict=True)
    }
    return [placed[index] for index in range(len(placed))]
