"""Calibration of one raw score so that 0.5 is the shipped operating point.

``p = sigmoid(slope * (logit - threshold))``, that is ``sigmoid(a * logit + b)`` with ``a = slope`` and
``b = -slope * threshold``. The slope comes from Platt scaling (Platt 1999, with the smoothed targets and the Newton
method of Lin, Lin and Weng 2007) or from temperature scaling (Guo et al. 2017, arXiv 1706.04599), the threshold from
an operating-point rule on a *named* development split.

We deviate from both in the intercept: theirs makes p the frequency of harm on the development split, ours moves it so
that ``p >= 0.5`` is exactly "the score reaches the chosen threshold". Differences of log-odds keep their calibrated
scale; the offset equals assuming another base rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from corral.core.errors import ConfigError, MetricError
from corral.core.files import atomic_write_json, read_json
from corral.core.metrics import select_threshold, threshold_at_fpr

FloatArray = NDArray[np.float64]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Calibration(BaseModel):
    """A monotone map from a raw score to a probability, with the record of how it was fitted.

    Attributes:
        slope: calibrated log-odds per unit of the score; positive, so that the order of scores is kept.
        threshold: the score that maps to 0.5.
        split: name of the development split that it was fitted on, "" for a map that was not fitted.
        rule: how the threshold was chosen.
        n: rows of that split.
        positives: positive rows among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    slope: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    threshold: Finite = 0.0
    split: str = ""
    rule: str = "given"
    n: Annotated[int, Field(ge=0)] = 0
    positives: Annotated[int, Field(ge=0)] = 0

    @property
    def intercept(self) -> float:
        """The ``b`` of ``sigmoid(a * logit + b)``."""
        return -self.slope * self.threshold

    def apply(self, logits: ArrayLike) -> FloatArray:
        """Probabilities of raw scores, of the same shape; a score that is not finite gives NaN."""
        return _probabilities(logits, self.slope, self.threshold)

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        atomic_write_json(path, self.model_dump())

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what ``save`` wrote.

        Raises:
            ConfigError: a field is missing, unknown or out of range.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{field}: {first['msg']}", where=str(path), hint="Fit and save it again.") from error


class CalibrationRow:
    """The calibrations of several raw scores, applied together.

    Args:
        calibrations: one a score, in their order.
    """

    def __init__(self, calibrations: Sequence[Calibration]) -> None:
        self._slopes_K = np.array([calibration.slope for calibration in calibrations])
        self._thresholds_K = np.array([calibration.threshold for calibration in calibrations])

    def log_odds(self, scores: ArrayLike) -> FloatArray:
        """Calibrated log-odds (..., K) of raw scores (..., K)."""
        scaled: FloatArray = self._slopes_K * (np.asarray(scores, dtype=np.float64) - self._thresholds_K)
        return scaled

    def apply(self, scores: ArrayLike) -> FloatArray:
        """Probabilities (..., K) of raw scores (..., K), as ``Calibration.apply`` gives them one by one."""
        return _probabilities(scores, self._slopes_K, self._thresholds_K)


def sigmoid(log_odds: FloatArray) -> FloatArray:
    """Probabilities of log-odds: never overflows, and exactly 0.5 at 0."""
    probabilities: FloatArray = 0.5 + 0.5 * np.tanh(0.5 * log_odds)
    return probabilities


def at_half(p: float, threshold: float) -> float:
    """A probability whose threshold is ``threshold`` as one whose threshold is 0.5.

    Odds of p over odds of the threshold, so the order of scores is kept.

    Args:
        p: in [0, 1].
        threshold: strictly between 0 and 1.
    """
    if threshold == 0.5:
        return p
    positive, negative = p * (1 - threshold), (1 - p) * threshold
    return positive / (positive + negative)


def _probabilities(logits: ArrayLike, slope: float | FloatArray, threshold: float | FloatArray) -> FloatArray:
    scores = np.asarray(logits, dtype=np.float64)
    return np.where(np.isfinite(scores), sigmoid(slope * (scores - threshold)), np.nan)


def fit_calibration(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    split: str,
    method: Literal["platt", "temperature"] = "platt",
    max_fpr: float | None = None,
) -> Calibration:
    """Fit a calibration on a development split.

    Args:
        scores: raw scores (N,), larger means more positive.
        labels: 0 or 1 (N,).
        split: name of the development split; recorded, and never the test.
        method: what the slope is fitted with; ``temperature`` takes the score's own zero as even odds.
        max_fpr: ``None`` chooses the threshold of the best F1, a number the lowest threshold whose false-positive
            rate is at most this.

    Raises:
        MetricError: empty or unequal lengths, labels outside {0, 1}, one class only, scores that are not finite or
            do not rise with the label, or a split without a name.
    """
    if not split.strip():
        raise MetricError(
            "a threshold needs the name of its development split", where="split", hint="Name the rows it was fitted on."
        )
    scores_N, labels_N = _checked(scores, labels)
    slope = _platt_slope(scores_N, labels_N) if method == "platt" else _inverse_temperature(scores_N, labels_N)
    if not (math.isfinite(slope) and slope > 0):
        raise MetricError(
            f"the scores do not rise with the label on `{split}` (fitted slope `{slope:.3g}`)",
            hint="Check the sign of the score and the order of the labels.",
        )
    if max_fpr is None:
        threshold = select_threshold(labels_N, scores_N)
    else:
        threshold = threshold_at_fpr(labels_N, scores_N, max_fpr)
    if threshold is None:
        raise MetricError("no threshold is defined on these labels", where=split)
    return Calibration(
        slope=slope,
        threshold=_between(scores_N, threshold),
        split=split,
        rule="max_f1" if max_fpr is None else f"fpr<={max_fpr:g}",
        n=len(labels_N),
        positives=int(labels_N.sum()),
    )


def fit_weights(logits: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, float]:
    """Weights and intercept of the sum of log-odds that best predicts the labels, no weight below 0.

    Logistic regression with Platt's smoothed targets. A member whose weight comes out negative gets none and the
    others are fitted again: a guard's rising score must never lower the sum.

    Args:
        logits: log-odds (N, M) of M members.
        labels: 0 or 1 (N,).

    Returns:
        (M,) weights and the intercept.

    Raises:
        MetricError: shapes that do not match, labels outside {0, 1}, one class only, log-odds that are not finite, or
            no member that rises with the label.
    """
    logits_NM = np.asarray(logits, dtype=np.float64)
    labels_N = np.asarray(labels, dtype=np.float64)
    if logits_NM.ndim != 2 or len(logits_NM) != len(labels_N) or not np.isfinite(logits_NM).all():
        raise MetricError(f"log-odds of shape `{logits_NM.shape}` do not fit `{len(labels_N)}` labels", where="scores")
    if not np.isin(labels_N, (0.0, 1.0)).all() or not 0 < labels_N.sum() < len(labels_N):
        raise MetricError("weights need rows of both classes, labelled 0 or 1", where="labels")
    kept = list(range(logits_NM.shape[1]))
    while kept:
        design_NP = np.column_stack([logits_NM[:, kept], np.ones(len(labels_N))])
        *weights, intercept = _newton(design_NP, _smoothed(labels_N)).tolist()
        if min(weights) >= 0:
            weights_M = np.zeros(logits_NM.shape[1])
            weights_M[kept] = weights
            return weights_M, float(intercept)
        kept.pop(int(np.argmin(weights)))
    raise MetricError("no member's score rises with the label", hint="Check the order of the labels.")


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, FloatArray]:
    scores_N = np.asarray(scores, dtype=np.float64)
    labels_N = np.asarray(labels, dtype=np.float64)
    if scores_N.ndim != 1 or scores_N.shape != labels_N.shape:
        raise MetricError(f"scores of shape `{scores_N.shape}` and labels of shape `{labels_N.shape}` do not match")
    if not np.isfinite(scores_N).all():
        raise MetricError(f"`{int((~np.isfinite(scores_N)).sum())}` scores are not finite", where="scores")
    if not np.isin(labels_N, (0.0, 1.0)).all():
        raise MetricError("labels must be 0 or 1", where="labels", hint="Drop the rows whose label is unknown.")
    if not 0 < labels_N.sum() < len(labels_N):
        raise MetricError("calibration needs rows of both classes", where="labels")
    if scores_N.min() == scores_N.max():
        raise MetricError("all scores are equal; no slope is defined on them", where="scores")
    return scores_N, labels_N


def _platt_slope(scores_N: FloatArray, labels_N: FloatArray) -> float:
    """Slope of the line by maximum likelihood.

    The scores are standardised first: Newton's method then starts near the solution whatever their unit.
    """
    scale = float(scores_N.std())
    design_N2 = np.stack([(scores_N - scores_N.mean()) / scale, np.ones_like(scores_N)], axis=1)
    slope, _ = _newton(design_N2, _smoothed(labels_N))
    return float(slope / scale)


def _inverse_temperature(scores_N: FloatArray, labels_N: FloatArray) -> float:
    scale = float(np.abs(scores_N).max())
    (slope,) = _newton(scores_N[:, None] / scale, _smoothed(labels_N))
    return float(slope / scale)


def _smoothed(labels_N: FloatArray) -> FloatArray:
    """Platt's targets: they keep the fit finite when the classes are separable."""
    positives = labels_N.sum()
    negatives = len(labels_N) - positives
    targets_N: FloatArray = np.where(labels_N == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    return targets_N


def _newton(design_NP: FloatArray, targets_N: FloatArray, *, steps: int = 100, tolerance: float = 1e-10) -> FloatArray:
    """Minimise the cross entropy of ``sigmoid(design @ w)`` by Newton's method with halving of the step."""
    weights_P = np.zeros(design_NP.shape[1])
    loss = _cross_entropy(design_NP @ weights_P, targets_N)
    for _ in range(steps):
        p_N = sigmoid(design_NP @ weights_P)
        gradient_P = design_NP.T @ (p_N - targets_N)
        hessian_PP = (design_NP * (p_N * (1 - p_N))[:, None]).T @ design_NP + 1e-12 * np.eye(len(weights_P))
        step_P = np.linalg.solve(hessian_PP, gradient_P)
        if float(np.abs(step_P).max()) < tolerance:
            break
        size = 1.0
        while (lower := _cross_entropy(design_NP @ (weights_P - size * step_P), targets_N)) > loss and size > 1e-8:
            size /= 2
        weights_P, loss = weights_P - size * step_P, lower
    return weights_P


def _cross_entropy(logits_N: FloatArray, targets_N: FloatArray) -> float:
    return float((np.logaddexp(0.0, logits_N) - targets_N * logits_N).sum())


def _between(scores_N: FloatArray, threshold: float) -> float:
    """The threshold moved halfway to the next lower score: the same decisions, robust to rounding."""
    reached, missed = scores_N[scores_N >= threshold], scores_N[scores_N < threshold]
    if not len(reached) or not len(missed):
        return threshold
    lowest, highest = float(reached.min()), float(missed.max())
    middle = lowest / 2 + highest / 2
    # Neighbouring floats have no number between them; the upper one then keeps the decisions.
    return middle if highest < middle <= lowest else lowest
