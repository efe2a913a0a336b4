"""Loss of a guard with several heads, of which a row may label only some.

Binary heads take binary cross entropy (labels may be soft), the category head takes the log-sum-exp loss of
``objectives/zlpr``. Every (row, head) pair with a known label counts once; the sum is divided by the number of such
pairs in the whole optimiser step, counted over all micro-batches and processes.

Legend: B batch, H binary heads, K categories.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from corral.train.objectives.zlpr import zlpr_loss


def guard_heads_loss(
    binary_BH: Tensor,
    categories_BK: Tensor,
    binary_labels_BH: Tensor,
    category_labels_BK: Tensor,
    *,
    category_weight: float = 1.0,
) -> Tensor:
    """Sum of the losses over all known (row, head) pairs; divide by their global count.

    Args:
        binary_BH: logits of the binary heads.
        categories_BK: category scores.
        binary_labels_BH: in [0, 1]; negative means unknown.
        category_labels_BK: 1, 0 or negative for unknown.
        category_weight: factor of the category loss; its scale grows with the number of categories.

    Returns:
        A scalar.
    """
    known_BH = binary_labels_BH >= 0
    losses_BH = binary_cross_entropy_with_logits(
        binary_BH.float(), binary_labels_BH.float().clamp_min(0.0), reduction="none"
    )
    binary = losses_BH.masked_fill(~known_BH, 0.0).sum()
    return binary + category_weight * zlpr_loss(categories_BK, category_labels_BK).sum()
