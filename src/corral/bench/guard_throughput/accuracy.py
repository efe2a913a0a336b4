"""How far two ways of scoring the same prompts lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any, Final

THRESHOLD: Final = 0.5
_NEAR: Final = 0.02
_PERCENTS: Final = (5, 25, 50, 75, 95)


def agreement(ours: Sequence[float], reference: Sequence[float], threshold: float = THRESHOLD) -> float:
    """Share of prompts that both scores put on the same side of the threshold, which counts as unsafe."""
    same = [(a >= threshold) == (b >= threshold) for a, b in zip(ours, reference, strict=True)]
    return sum(same) / len(same)


def max_delta(ours: Sequence[float], reference: Sequence[float]) -> float:
    """Largest difference between the scores of a prompt."""
    return max(abs(a - b) for a, b in zip(ours, reference, strict=True))


def compare(ours: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    """Both measures, and what the reference's scores look like: agreement means little where they are all alike.

    Returns:
        ``label_agreement`` at 0.5 and ``max_delta_p``; ``label_agreement_at_median``, with the reference's median as
        the threshold, the hardest one there is; ``near_threshold``, how many scores lie within 0.02 of 0.5;
        ``unsafe``, how many reach 0.5; ``minimum``, ``maximum`` and percentiles (``p05`` to ``p95``) of the scores.
    """
    return {
        "label_agreement": agreement(ours, reference),
        "label_agreement_at_median": agreement(ours, reference, median(reference)),
        "max_delta_p": max_delta(ours, reference),
        "near_threshold": sum(abs(p - THRESHOLD) <= _NEAR for p in reference),
        "unsafe": sum(p >= THRESHOLD for p in reference),
        **spread(reference),
    }


def spread(scores: Sequence[float]) -> dict[str, float]:
    """Smallest and largest score, and percentiles between them."""
    cuts = quantiles(scores, n=100, method="inclusive") if len(scores) > 1 else [scores[0]] * 99
    percentiles = {f"p{percent:02d}": cuts[percent - 1] for percent in _PERCENTS}
    return {"minimum": min(scores), **percentiles, "maximum": max(scores)}
