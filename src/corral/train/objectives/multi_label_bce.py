"""Binary cross entropy over categories, some of unknown label: what the log-sum-exp loss is compared with.

For scores s and labels y in {0, 1}, the mean over known categories of -y log sigmoid(s) - (1 - y) log(1 - sigmoid(s)),
transformers' loss of multi-label classification. Each category counts alike, so that the many absent ones outweigh the
one that is there; ``zlpr`` compares the two sides as a whole.

Legend: B batch, K categories.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def multi_label_bce(scores_BK: Tensor, labels_BK: Tensor) -> Tensor:
    """Loss of each row.

    Args:
        scores_BK: real scores, any floating dtype; computed in float32.
        labels_BK: 1 positive, 0 negative, any negative value unknown.

    Returns:
        Tensor of shape (B,). A row without a known label gives 0 and no gradient.
    """
    known_BK = labels_BK >= 0
    losses_BK = binary_cross_entropy_with_logits(
        scores_BK.float(), labels_BK.float().clamp_min(0.0), reduction="none"
    ).masked_fill(~known_BK, 0.0)
    return losses_BK.sum(dim=1) / known_BK.sum(dim=1).clamp_min(1)
