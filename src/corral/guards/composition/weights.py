"""Fitting an ensemble on a development split: each member's calibration, the weights, the last calibration.

Members are calibrated one by one (``guards/calibration``), so that their log-odds mean the same; the rule ``logit``
then weighs them by logistic regression without negative weights (stacking, Wolpert 1992); the last calibration puts
the operating point of the combination at 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from corral.core.errors import MetricError
from corral.data.messages import TARGETS, Target
from corral.guards.calibration import FloatArray, fit_calibration, fit_weights
from corral.guards.composition.ensemble import EnsembleFit, MemberFit, Rule, TargetFit, calibrated, combine

LEAST_ROWS: Final = 30
"""Rows of each class that a target needs."""


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
    max_fpr: float | None = None,
) -> EnsembleFit:
    """Fit an ensemble; a target with fewer than 30 rows of a class is left unfitted.

    Args:
        scores: the development split.
        guards: name to revision of the members, in the order of the columns.
        split: its name.
        rule: how scores will be combined.
        max_fpr: of the operating point: ``None`` for the best F1, or the largest false-positive rate.

    Raises:
        MetricError: a split without a name, too few rows, or a member whose scores do not rise with the label.
    """
    fits: dict[Target, TargetFit] = {}
    for target in TARGETS:
        rows = np.flatnonzero(np.array([each == target for each in scores.targets], dtype=bool))
        labels_N = np.array(scores.harmful, dtype=np.float64)[rows]
        if min((labels_N == 1).sum(), (labels_N == 0).sum()) >= LEAST_ROWS:
            fits[target] = _fit_target(
                scores.logits_NM[rows], labels_N, list(guards), split=split, rule=rule, max_fpr=max_fpr
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
    return TargetFit(members=dict(zip(names, members, strict=True)), bias=bias, final=final)
