"""Fitting an ensemble on a development split: each member's calibration, the weights, the last calibration.

Members are calibrated one by one (``guards/calibration``), so that their log-odds mean the same; the rule ``logit``
then weighs them by logistic regression without negative weights (stacking, Wolpert 1992); the last calibration puts
the operating point of the combination at 0.5. Where the first member is enough is chosen last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from corral.core.errors import MetricError
from corral.core.metrics import threshold_at_fpr
from corral.core.stats import wilson
from corral.data.messages import TARGETS, Target
from corral.guards.calibration import FloatArray, fit_calibration, fit_weights, sigmoid
from corral.guards.composition.band import fit_band
from corral.guards.composition.cascade import Band
from corral.guards.composition.ensemble import EarlyExit, EnsembleFit, MemberFit, Rule, TargetFit, calibrated, combine

LEAST_ROWS: Final = 30
"""Rows of each class that a target needs."""
_OTHER_FPR: Final = (0.01, 0.2)
"""False-positive rates of the operating points that an early exit has to keep beside the shipped one."""


@dataclass(frozen=True, slots=True)
class MemberScores:
    """Rows of a development split as the members of an ensemble scored them.

    Attributes:
        targets: (N,) what was judged.
        harmful: (N,) the label.
        logits_NM: the members' log-odds of harm (``ensemble.log_odds``), finite.
    """

    targets: Sequence[Target]
    harmful: Sequence[bool]
    logits_NM: FloatArray


def fit_ensemble(
    scores: MemberScores,
    guards: dict[str, str],
    *,
    split: str,
    rule: Rule = "logit",
    max_fpr: float | Mapping[Target, float] | None = None,
    early_agreement: float | None = None,
) -> EnsembleFit:
    """Fit an ensemble; a target with fewer than 30 rows of a class is left unfitted.

    Args:
        scores: the development split.
        guards: name to revision of the members, in the order of the columns.
        split: its name.
        rule: how scores will be combined.
        max_fpr: of the operating point: ``None`` for the best F1, or the largest false-positive rate, of both targets
            or of each.
        early_agreement: ``None`` has every member asked about everything; a share lets the first member's score stand
            where it is sure, so that at least this share of the split is decided as all members would decide it, at
            the operating point and at those of 1 and 20 % false positives, between which presets choose theirs.

    Raises:
        MetricError: a split without a name, too few rows, or a member whose scores do not rise with the label.
    """
    fits: dict[Target, TargetFit] = {}
    for target in TARGETS:
        rows = np.flatnonzero(np.array([each == target for each in scores.targets], dtype=bool))
        labels_N = np.array(scores.harmful, dtype=np.float64)[rows]
        if min((labels_N == 1).sum(), (labels_N == 0).sum()) >= LEAST_ROWS:
            fits[target] = _fit_target(
                scores.logits_NM[rows],
                labels_N,
                list(guards),
                split=split,
                rule=rule,
                max_fpr=max_fpr.get(target) if isinstance(max_fpr, Mapping) else max_fpr,
                early_agreement=early_agreement,
            )
    if not fits:
        raise MetricError(
            f"`{split}` has too few rows to fit an ensemble on",
            where="split",
            hint=f"At least {LEAST_ROWS} harmful and {LEAST_ROWS} harmless rows of prompts, or of responses.",
        )
    return EnsembleFit(rule=rule, targets=fits, split=split, n=len(scores.targets), guards=guards)


def _fit_target(
    logits_NM: FloatArray,
    labels_N: FloatArray,
    names: Sequence[str],
    *,
    split: str,
    rule: Rule,
    max_fpr: float | None,
    early_agreement: float | None,
) -> TargetFit:
    calibrations = [fit_calibration(logits_N, labels_N, split=split, max_fpr=max_fpr) for logits_N in logits_NM.T]
    members = [MemberFit(calibration=calibration) for calibration in calibrations]
    bias = 0.0
    if rule == "logit":
        weights_M, bias = fit_weights(calibrated(logits_NM, members), labels_N)
        members = [
            member.model_copy(update={"weight": weight})
            for member, weight in zip(members, weights_M.tolist(), strict=True)
        ]
    combined_N = combine(logits_NM, members, rule=rule, bias=bias)
    final = fit_calibration(combined_N, labels_N, split=split, max_fpr=max_fpr)
    early = None
    if early_agreement is not None:
        others = [threshold_at_fpr(labels_N, combined_N, fpr) for fpr in _OTHER_FPR]
        points = [final.threshold, *(point for point in others if point is not None)]
        early = _fit_early(logits_NM[:, 0], combined_N, points, split=split, agreement=early_agreement)
    return TargetFit(members=dict(zip(names, members, strict=True)), bias=bias, final=final, early=early)


def _fit_early(
    first_N: FloatArray, combined_N: FloatArray, points: Sequence[float], *, split: str, agreement: float
) -> EarlyExit:
    """The line (least squares) from the first member's log-odds to those of all, and where it is enough.

    Args:
        first_N: the first member's log-odds.
        combined_N: those of all.
        points: of ``combined_N``; at each, decisions by the line outside the band agree. The first is shipped.
        split: name of the development split.
        agreement: least share of rows.

    Raises:
        MetricError: the first member's log-odds do not rise with those of all.
    """
    slope, intercept = (float(value) for value in np.polyfit(first_N, combined_N, 1))
    if slope <= 0:
        raise MetricError("the first member's score does not rise with that of all", hint="Name another guard first.")
    line_N = slope * first_N + intercept
    ends = []
    for point in points:
        by_line = fit_band(
            sigmoid(line_N - point).tolist(), (combined_N >= point).tolist(), split=split, agreement=agreement
        )
        ends.append([(_logit(end) + point - intercept) / slope for end in (by_line.low, by_line.high)])
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    inside_N = (first_N >= low) & (first_N <= high)
    agrees_N = inside_N | ((line_N >= points[0]) == (combined_N >= points[0]))
    agreed = wilson(int(agrees_N.sum()), len(agrees_N))
    band = Band(
        low=float(sigmoid(np.array(low))),
        high=float(sigmoid(np.array(high))),
        split=split,
        rule=f"agreement>={agreement:g} at {len(points)} operating points",
        n=len(first_N),
        share=float(inside_N.mean()),
        agreement=agreed.value,
        agreement_ci95=agreed.ci95,
    )
    return EarlyExit(band=band, slope=slope, intercept=intercept)


def _logit(p: float) -> float:
    """Log-odds, infinite at 0 and 1."""
    return math.inf if p >= 1 else -math.inf if p <= 0 else math.log(p) - math.log1p(-p)
