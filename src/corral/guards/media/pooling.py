"""From the scores of frames to the score of a clip.

- ``max``: the highest score. One bad frame is enough, and so is one false alarm: were frames independent with a
  false-flag rate q each, a clip of k frames would be flagged with 1 - (1 - q)^k.
- ``top_mean``: the mean of the m highest.
- ``m_of_k``: the m-th highest score, so that a clip is flagged when at least m frames reach the threshold; under
  independence with the upper tail P(X >= m) of Binomial(k, q).

Neighbouring frames look alike, so real clips depart from these rates: thresholds are calibrated on clips, for each rule
and number of frames (``clip_threshold``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from corral.core.errors import ConfigError, MetricError
from corral.core.metrics import threshold_at_fpr

PoolingRule = Literal["max", "top_mean", "m_of_k"]


@dataclass(frozen=True, slots=True)
class Pooling:
    """A pooling rule; ``m`` is of no consequence for ``max``.

    Raises:
        ConfigError: m below 1.
    """

    rule: PoolingRule = "max"
    m: int = 1

    def __post_init__(self) -> None:
        if self.m < 1:
            raise ConfigError(f"`{self.m}` is below 1", where="pooling.m")

    def __call__(self, scores: Sequence[float]) -> float:
        """The clip's score.

        A clip of fewer than m frames is judged by all of them: were it flagged by none, a short clip would pass
        whatever it shows.

        Raises:
            MetricError: there are no scores.
        """
        if not scores:
            raise MetricError("no frame was scored, so there is nothing to pool")
        highest = sorted(scores, reverse=True)[: 1 if self.rule == "max" else self.m]
        return math.fsum(highest) / len(highest) if self.rule == "top_mean" else highest[-1]


def independent_flag_rate(q: float, k: int, m: int = 1) -> float:
    """Probability that at least m of k independent frames are flagged, each with probability q."""
    return math.fsum(math.comb(k, flagged) * q**flagged * (1 - q) ** (k - flagged) for flagged in range(m, k + 1))


def clip_threshold(negative_scores: Sequence[float], *, max_fpr: float) -> float:
    """The lowest threshold at which at most a share ``max_fpr`` of harmless clips is flagged.

    Args:
        negative_scores: pooled scores of harmless clips of a named development split, all of one rule and number of
            frames.
        max_fpr: in [0, 1].

    Raises:
        MetricError: there are no clips.
    """
    threshold = threshold_at_fpr([0] * len(negative_scores), negative_scores, max_fpr)
    if threshold is None:
        raise MetricError("a threshold needs scores of harmless clips")
    return threshold
