"""Choosing a cascade's band on a development split: the least cost for an agreement, or the best agreement for a cost.

Agreement is the share of rows on which the cascade decides as the costly guard alone would; cost the share of rows
that the costly guard is asked about. Labels are not needed: the costly guard is what the cascade stands in for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from corral.core.errors import MetricError
from corral.core.stats import wilson
from corral.guards.composition.cascade import Band

_MOST_ENDS: Final = 400
"""Candidates for each end of the band: with more rows, quantiles of their scores."""


def fit_band(
    cheap_p: Sequence[float],
    costly_flagged: Sequence[bool],
    *,
    split: str,
    agreement: float | None = None,
    share: float | None = None,
    guards: dict[str, str] | None = None,
) -> Band:
    """Fit the band.

    Args:
        cheap_p: (N,) harm scores of the cheap guard.
        costly_flagged: (N,) decisions of the costly guard on the same rows.
        split: name of the development split.
        agreement: the least agreement; the band with the fewest rows inside is chosen.
        share: the largest share of rows inside the band; the one of the best agreement is chosen.
        guards: name to revision of both, for the record.

    Raises:
        MetricError: no rows, unequal lengths, scores outside [0, 1], a split without a name, or not exactly one of
            ``agreement`` and ``share``; or no band asks about so few rows, since every band holds a score of 0.5.
    """
    scores_N = np.asarray(cheap_p, dtype=np.float64)
    flagged_N = np.asarray(costly_flagged, dtype=bool)
    _check(scores_N, flagged_N, split, agreement, share)
    n = len(scores_N)
    lows_L, highs_H = _ends(scores_N[scores_N <= 0.5], edge=0.0), _ends(scores_N[scores_N >= 0.5], edge=1.0)
    below_L = (scores_N[:, None] < lows_L).sum(axis=0)
    missed_L = ((scores_N[:, None] < lows_L) & flagged_N[:, None]).sum(axis=0)
    above_H = (scores_N[:, None] > highs_H).sum(axis=0)
    raised_H = ((scores_N[:, None] > highs_H) & ~flagged_N[:, None]).sum(axis=0)
    inside_LH = n - below_L[:, None] - above_H
    apart_LH = missed_L[:, None] + raised_H
    if agreement is not None:
        allowed_LH, order_LH = apart_LH / n <= 1 - agreement, inside_LH * (n + 1) + apart_LH
    else:
        allowed_LH, order_LH = inside_LH / n <= (share or 0.0), apart_LH * (n + 1) + inside_LH
    if not allowed_LH.any():  # an agreement always allows the band of all scores
        least = int(inside_LH.min())
        raise MetricError(
            f"no band asks about at most `{share:g}` of the rows: {least} of {n} have a score of exactly 0.5",
            where="share",
            hint="Every band holds these. Give a larger share, or an agreement.",
        )
    best = int(np.where(allowed_LH, order_LH, np.iinfo(np.int64).max).argmin())
    row, column = np.unravel_index(best, order_LH.shape)
    agreed = wilson(n - int(apart_LH[row, column]), n)
    return Band(
        low=float(lows_L[row]),
        high=float(highs_H[column]),
        split=split,
        rule=f"agreement>={agreement:g}" if agreement is not None else f"share<={share:g}",
        n=n,
        share=float(inside_LH[row, column] / n),
        agreement=agreed.value,
        agreement_ci95=agreed.ci95,
        guards=guards or {},
    )


def _ends(scores: np.ndarray, *, edge: float) -> np.ndarray:
    """Candidates for one end: scores that occur, 0.5 (nothing inside on this side), and the end of the scale."""
    found = np.unique(scores)
    if len(found) > _MOST_ENDS:
        found = np.unique(np.quantile(scores, np.linspace(0, 1, _MOST_ENDS), method="nearest"))
    return np.unique([*found, 0.5, edge])


def _check(
    scores_N: np.ndarray, flagged_N: np.ndarray, split: str, agreement: float | None, share: float | None
) -> None:
    if not split.strip():
        raise MetricError("a band needs the name of its development split", where="split")
    if scores_N.ndim != 1 or scores_N.shape != flagged_N.shape or not len(scores_N):
        raise MetricError(f"{scores_N.shape} scores and {flagged_N.shape} decisions", where="scores")
    if not ((scores_N >= 0) & (scores_N <= 1)).all():
        raise MetricError("scores must be probabilities", where="scores")
    if (agreement is None) == (share is None):
        raise MetricError("a band is fitted for an agreement or for a share", hint="Give exactly one of the two.")
    for name, value in (("agreement", agreement), ("share", share)):
        if value is not None and not 0 <= value <= 1:
            raise MetricError(f"`{value}` is not a share", where=name, hint="Give a number from 0 to 1.")
