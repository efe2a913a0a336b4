"""Log-sum-exp multi-label loss (ZLPR), with categories whose label is unknown.

For scores s with positives P and negatives N::

    L = log(1 + sum_{k in N} exp(s_k)) + log(1 + sum_{k in P} exp(-s_k))

Source: DuoGuard (arXiv 2502.05163), classifier objective. The natural boundary is s = 0. A row whose P is empty has a
second term of 0. We deviate in two ways: masking is exact in half precision (a masked log-sum-exp with a zero
appended, where the released code subtracts 1e12), and categories of unknown label belong to neither P nor N.

Legend: B batch, K categories.
"""

from __future__ import annotations

import torch
from torch import Tensor


def zlpr_loss(scores_BK: Tensor, labels_BK: Tensor) -> Tensor:
    """Loss of each row.

    Args:
        scores_BK: real scores, any floating dtype; computed in float32 at least.
        labels_BK: 1 positive, 0 negative, any negative value unknown.

    Returns:
        Tensor of shape (B,). A row without a known label gives 0 and no gradient.
    """
    scores = scores_BK.float() if scores_BK.dtype in {torch.float16, torch.bfloat16} else scores_BK
    negatives = _log1p_sum_exp(scores, labels_BK == 0)
    positives = _log1p_sum_exp(-scores, labels_BK == 1)
    return negatives + positives


def _log1p_sum_exp(scores_BK: Tensor, chosen_BK: Tensor) -> Tensor:
    """log(1 + sum of exp over the chosen entries of each row), shape (B,)."""
    masked = scores_BK.masked_fill(~chosen_BK, -torch.inf)
    zero = scores_BK.new_zeros((*scores_BK.shape[:-1], 1))
    return torch.logsumexp(torch.cat([masked, zero], dim=-1), dim=-1)
