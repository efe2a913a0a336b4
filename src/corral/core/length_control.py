"""Win rate with the judge's taste for long answers taken out, as a function of row weights.

A regression of wins on the difference in length gives the share of wins that is expected where both answers are of one
length: logit P(win) = theta + phi * tanh(d / sd(d)), reported as sigmoid(theta). This is the idea of length-controlled
AlpacaEval (Dubois et al., arXiv 2404.04475, section 3), from which we deviate: no term for how hard an instruction is
(it needs many models' answers to one set of prompts), and a fixed small penalty on phi in place of cross-validation.

Shapes: N pairs, R replicates.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from corral.core.errors import MetricError
from corral.core.metric_inputs import Floats, Values, require_equal_lengths
from corral.core.weighted import Statistic

LENGTH_PENALTY: Final = 1.0
"""Weight of phi squared / 2 beside the log-likelihood; one pair's worth, so it fades as pairs are added."""

_STEPS: Final = 60
_LARGEST_STEP: Final = 2.0
_LARGEST: Final = 30.0  # sigmoid is 1 in double precision but for 1e-13


def length_controlled_win_rate(wins_N: Values, differences_N: Values) -> Statistic:
    """Share of wins expected at equal length.

    Args:
        wins_N: (N,) 1 for a win, 0 for a loss, 0.5 for a tie.
        differences_N: (N,) length of the subject's answer less that of the other.

    Returns:
        (N, R) weights to (R,) shares; NaN without any weight.

    Raises:
        MetricError: wins outside [0, 1], a difference that is not finite, or lengths that differ.
    """
    wins, differences = np.asarray(wins_N, dtype=np.float64), np.asarray(differences_N, dtype=np.float64)
    require_equal_lengths(wins, differences)
    if not np.all((wins >= 0) & (wins <= 1)):
        raise MetricError("wins lie between 0 and 1")
    if not np.all(np.isfinite(differences)):
        raise MetricError("a difference in length is not finite")
    spread = float(differences.std()) if len(differences) else 0.0
    x_N = np.tanh(differences / spread) if spread > 0 else np.zeros_like(differences)
    return lambda weights_NR: _fit(wins, x_N, weights_NR)


def _fit(wins_N: Floats, x_N: Floats, weights_NR: Floats) -> Floats:
    """sigmoid(theta) of each replicate, by Newton's method on both parameters at once."""
    theta_R, phi_R = np.zeros(weights_NR.shape[1]), np.zeros(weights_NR.shape[1])
    for _ in range(_STEPS):
        p_NR = _sigmoid(theta_R + x_N[:, None] * phi_R)
        error_NR = weights_NR * (wins_N[:, None] - p_NR)
        curve_NR = weights_NR * p_NR * (1 - p_NR)
        up_theta, up_phi = error_NR.sum(axis=0), x_N @ error_NR - LENGTH_PENALTY * phi_R
        a, b = curve_NR.sum(axis=0) + np.finfo(np.float64).tiny, x_N @ curve_NR
        c = (x_N * x_N) @ curve_NR + LENGTH_PENALTY
        determinant = a * c - b * b
        # Only wins or only losses have theta at infinity: steps and values are bounded.
        step_theta = np.clip(_over(c * up_theta - b * up_phi, determinant), -_LARGEST_STEP, _LARGEST_STEP)
        step_phi = np.clip(_over(a * up_phi - b * up_theta, determinant), -_LARGEST_STEP, _LARGEST_STEP)
        theta_R = np.clip(theta_R + step_theta, -_LARGEST, _LARGEST)
        phi_R = np.clip(phi_R + step_phi, -_LARGEST, _LARGEST)
        if max(np.abs(step_theta).max(initial=0.0), np.abs(step_phi).max(initial=0.0)) < 1e-10:
            break
    return np.where(weights_NR.sum(axis=0) > 0, _sigmoid(theta_R), np.nan)


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def _over(numerator: Floats, denominator: Floats) -> Floats:
    return numerator / np.where(denominator > 0, denominator, np.inf)
