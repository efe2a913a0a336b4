"""Choosing the next token of each row of a batch.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from corral.core.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from corral.models.engines.base import GenerationSettings


def row_random(seed: int, index: int) -> random.Random:
    """The random numbers of one prompt: they depend on the seed and its index alone, not on who shares its batch."""
    return random.Random(f"{seed}/{index}")  # noqa: S311 - sampling, not secrets


def next_tokens(logits_BV: Tensor, settings: GenerationSettings, randoms: Sequence[random.Random]) -> list[int]:
    """One token id a row: the largest logit at temperature 0, else sampled.

    Raises:
        EngineError: a logit is not finite.
    """
    logits_BV = logits_BV.float()
    require_finite(logits_BV)
    if settings.temperature == 0.0:
        greedy: list[int] = logits_BV.argmax(dim=-1).tolist()
        return greedy
    return _sample(logits_BV / settings.temperature, settings.top_p, randoms)


def require_finite(logits: Tensor) -> None:
    """Raise an EngineError unless every logit is a finite number."""
    if not bool(logits.isfinite().all()):
        raise EngineError(
            "the model's logits are not finite",
            hint="The weights are damaged, or the dtype is too narrow for them: try float32.",
        )


def _sample(logits_BV: Tensor, top_p: float, randoms: Sequence[random.Random]) -> list[int]:
    import torch

    probabilities_BV, tokens_BV = logits_BV.double().softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    reached_BV = probabilities_BV.cumsum(dim=-1)
    # A token stays in the nucleus while those before it have not reached the sum; the first always stays.
    nucleus_BV = (reached_BV - probabilities_BV) < top_p
    totals_B = (probabilities_BV * nucleus_BV).sum(dim=-1)
    draws_B = torch.tensor([generator.random() for generator in randoms], dtype=torch.double, device=totals_B.device)
    chosen_B = torch.searchsorted(reached_BV, (draws_B * totals_B)[:, None], right=True).squeeze(1)
    # Rounding may put a draw at the very top past the last token of the nucleus.
    chosen_B = torch.minimum(chosen_B, nucleus_BV.sum(dim=-1) - 1)
    sampled: list[int] = tokens_BV.gather(1, chosen_B[:, None]).squeeze(1).tolist()
    return sampled
