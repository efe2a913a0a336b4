"""The language-model head where it is read: at labelled tokens alone.

TRL asks a model for log-probabilities instead of logits (``model(..., labels=labels, fused_lm_head=True)``). Its own
head computes them in tiles; without Triton it does so at every token, prompt and padding included, and again on the way
back, which on a CPU takes longer than the layers of a small model. This one applies the head to the labelled tokens
once, in the dtype of the forward pass, and gives the same fields.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput


def score_labelled_tokens(model: Any) -> None:
    """Replace the head that TRL has put into ``model``; calls that do not ask for it are not changed.

    Args:
        model: a decoder under ``model.model`` with a head that is one matrix product.
    """
    with_logits = model.forward

    def forward(*args: Any, fused_lm_head: bool = False, labels: Tensor | None = None, **kwargs: Any) -> Any:
        if not fused_lm_head or labels is None:
            return with_logits(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
        kwargs["use_cache"] = False
        hidden_BTD = model.model(*args, **kwargs).last_hidden_state[:, :-1]
        return _scored(model.lm_head, hidden_BTD, labels[:, 1:])

    model.forward = forward


def _scored(head: torch.nn.Linear, hidden_BTD: Tensor, labels_BT: Tensor) -> FusedCausalLMOutput:
    mask_BT = labels_BT != -100
    targets_N = labels_BT[mask_BT]
    logits_NV = head(hidden_BTD[mask_BT]).float()
    log_total_N = logits_NV.logsumexp(dim=-1)
    log_probs_N = logits_NV.gather(1, targets_N[:, None]).squeeze(1) - log_total_N
    with torch.no_grad():
        expected_N = ((logits_NV - log_total_N[:, None]).exp() * logits_NV).sum(dim=-1)
        fields = {
            "entropy": log_total_N - expected_N,
            "mean_logits": logits_NV.mean(dim=-1),
            "is_top1": logits_NV.argmax(dim=-1) == targets_N,
        }

    def placed(values_N: Tensor) -> Tensor:
        return values_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, values_N)

    return FusedCausalLMOutput(
        loss=-log_probs_N.sum() / mask_BT.sum().clamp(min=1),
        log_probs=placed(log_probs_N),
        label_mask=mask_BT,
        **{name: placed(values_N) for name, values_N in fields.items()},
    )
