"""The decoding loop: one batch of prompts completed token by token.

Legend: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from corral.core.errors import EngineError
from corral.models.batching import pad
from corral.models.engines.base import FinishReason, Generation, GenerationSettings
from corral.models.engines.sampling import next_tokens
from corral.models.engines.text_stream import TextStream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(slots=True)
class Row:
    """One prompt being completed.

    Attributes:
        prompt_ids: what the model reads first; at least one token.
        limit: tokens to sample at most.
        text: decodes what was sampled.
        random: this row's own randomness.
        token_ids: sampled so far.
        finish_reason: ``None`` until the row is done.
        measures: see ``Generation``.
    """

    prompt_ids: list[int]
    limit: int
    text: TextStream
    random: random.Random
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    measures: Mapping[str, float] = field(default_factory=dict)

    def take(self, token: int, end_ids: frozenset[int]) -> str:
        """Add one sampled token; returns the text that is now certain."""
        if token in end_ids:
            self.finish_reason = "stop"
            return self.text.finish()
        self.token_ids.append(token)
        piece = self.text.push(token)
        if len(self.token_ids) == self.limit and not self.text.stopped:
            self.finish_reason = "length"
            piece += self.text.finish()
        if self.text.stopped:
            self.finish_reason = "stop"
        return piece

    def generation(self) -> Generation:
        """The finished row."""
        if self.finish_reason is None:
            raise EngineError("generation was broken off")
        return Generation(
            self.text.text, tuple(self.token_ids), self.finish_reason, len(self.prompt_ids), self.measures
        )


class NextTokens(Protocol):
    """Predicts the next token of each row of one batch that grows token by token."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def logits(self, input_ids_BT: Tensor, mask_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """Logits (B, V) after the newest tokens.

        Args:
            input_ids_BT: what was not read yet: the prompts at first, then a token a row.
            mask_BT: 1 on all tokens so far, 0 on padding.
            positions_BT: of the tokens that are read now.
        """

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""


class CachedModel:
    """A model with the cache of one batch.

    Args:
        model: a causal language model in evaluation mode.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        from transformers import DynamicCache

        self._model = model
        self._cache = DynamicCache(config=model.config)

    @property
    def device(self) -> torch.device:
        """The model's."""
        device: torch.device = self._model.device
        return device

    def logits(self, input_ids_BT: Tensor, mask_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """The model's logits at the last position; see ``NextTokens``."""
        logits_B1V: Tensor = self._model(
            input_ids=input_ids_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits_B1V[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Drop the others from the cache."""
        self._cache.batch_select_indices(rows)


def decode(
    source: NextTokens,
    rows: Sequence[Row],
    settings: GenerationSettings,
    end_ids: frozenset[int],
    *,
    steps: int | None = None,
) -> Iterator[str]:
    """Sample until every row is done; yields the new text of the first row after each of its steps.

    Only the last position's logits are computed. A finished row leaves the batch. Rows do not influence each other:
    each has its own positions and randomness. What a row has sampled before belongs to what is read first.

    Args:
        source: fresh, or its cache would not be of these rows.
        rows: that are not done.
        settings: how to sample.
        end_ids: tokens that end a row.
        steps: stop after so many, though rows may not be done.

    Raises:
        EngineError: a logit is not finite.
    """
    import torch

    batch = pad([[*row.prompt_ids, *row.token_ids] for row in rows], side="left")
    input_ids_BT, mask_BT, positions_BT = (tensor.to(source.device) for tensor in batch)
    active = list(rows)
    taken = 0
    while active and taken != steps:
        # Entered anew at each step: a caller that pauses between pieces keeps its own gradient mode.
        with torch.inference_mode():
            logits_BV = source.logits(input_ids_BT, mask_BT, positions_BT)
            tokens = next_tokens(logits_BV, settings, [row.random for row in active])
        pieces = [row.take(token, end_ids) for row, token in zip(active, tokens, strict=True)]
        if active[0] is rows[0]:
            yield pieces[0]
        kept = [i for i, row in enumerate(active) if row.finish_reason is None]
        if len(kept) < len(active):
            active = [active[i] for i in kept]
            index = torch.tensor(kept, dtype=torch.long, device=mask_BT.device)
            source.keep(index)
            mask_BT, positions_BT = mask_BT[index], positions_BT[index]
        input_ids_BT = torch.tensor([[tokens[i]] for i in kept], dtype=torch.long, device=mask_BT.device)
        positions_BT = positions_BT[:, -1:] + 1
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(active), 1)], dim=1)
        taken += 1
