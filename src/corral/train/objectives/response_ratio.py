"""MoGU's losses of the experts: the likelihood of one answer over that of another, as a ratio of cross-entropies.

For a prompt with an answer to learn and one to avoid, each CE a mean over the tokens of its answer::

    L = CE(learnt) / CE(avoided)

Source: MoGU (arXiv 2405.14488), stages 1 and 2 of its released code. The ratio can be lowered without end by blowing up
its denominator. Ours: a cap, above which no gradient flows through the denominator.

Legend: B rows, R tokens of answers, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor


def answer_cross_entropy(logits_BRV: Tensor, targets_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Mean negative log-likelihood of each row's answer, in nats a token.

    Args:
        logits_BRV: that predict the answers' tokens; computed in float32 at least.
        targets_BR: the tokens.
        mask_BR: true on tokens of the answer; each row has one.

    Returns:
        Tensor of shape (B,).
    """
    chosen_BR = logits_BRV.float().log_softmax(dim=-1).gather(-1, targets_BR[..., None]).squeeze(-1)
    return -chosen_BR.masked_fill(~mask_BR, 0.0).sum(dim=-1) / mask_BR.sum(dim=-1)


def response_ratio(learnt_B: Tensor, avoided_B: Tensor, *, cap: float | None = None) -> Tensor:
    """The ratio of each row.

    Args:
        learnt_B: cross-entropy of the answer to learn.
        avoided_B: of the answer to avoid.
        cap: where ``avoided_B`` is above it, its gradient is stopped; ``None`` never stops it.

    Returns:
        Tensor of shape (B,). A cap changes gradients, not values.
    """
    if cap is not None:
        avoided_B = avoided_B.detach().where(avoided_B > cap, avoided_B)
    return learnt_B / avoided_B
