"""What a model would say next, under an intervention or none.

Legend: B sequences, T tokens, N prompts, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from corral.core.errors import DataError
from corral.guards.latent_guard.reading import BATCH_TOKENS, refusal_score
from corral.models.batching import pad, token_budget_batches

if TYPE_CHECKING:
    from torch import Tensor

    from corral.models.engines.torch import TorchEngine

Intervention = Callable[[Sequence[int], int], AbstractContextManager[None]]
"""Given the indices of a batch's sequences and its padded length (padding on the right): what it is run inside."""


def next_token_logits(
    engine: TorchEngine,
    sequences: Sequence[Sequence[int]],
    *,
    intervention: Intervention | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Tensor:
    """Logits (N, V) after each token sequence, float32 on the CPU.

    Args:
        engine: the model.
        sequences: token ids, none empty.
        intervention: steering or ablation, entered for every batch.
        batch_tokens: padded tokens of one forward pass.

    Raises:
        DataError: an empty sequence, or none.
    """
    import torch

    if not sequences or not all(sequences):
        raise DataError("a prompt has no tokens")
    decoder: Any = engine.model.base_model
    logits: dict[int, Tensor] = {}
    for batch in token_budget_batches([len(ids) for ids in sequences], batch_tokens):
        padded = pad([sequences[i] for i in batch])
        ids_BT, mask_BT, positions_BT = (tensor.to(engine.model.device) for tensor in padded)
        inside = nullcontext() if intervention is None else intervention(batch, ids_BT.shape[1])
        with torch.inference_mode(), inside:
            hidden_BTD = decoder(
                input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, use_cache=False
            ).last_hidden_state
            last_B = mask_BT.sum(dim=1) - 1
            last_BD = hidden_BTD[torch.arange(len(batch), device=last_B.device), last_B]
            head = engine.model.get_output_embeddings()
            logits |= dict(zip(batch, head(last_BD).float().cpu(), strict=True))
    return torch.stack([logits[i] for i in range(len(sequences))])


def refusal_scores(
    engine: TorchEngine,
    sequences: Sequence[Sequence[int]],
    refusal_ids: Sequence[int],
    *,
    intervention: Intervention | None = None,
) -> Tensor:
    """Refusal score (N,) after each sequence; see ``reading.refusal_score``."""
    return refusal_score(next_token_logits(engine, sequences, intervention=intervention), refusal_ids)
