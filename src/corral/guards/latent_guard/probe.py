"""A linear probe on one site's states: what belief scores are compared with at equal data.

Legend: N rows, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from corral.core.errors import DataError
from corral.core.metrics import auroc
from corral.guards.latent_guard.centres import POSITIONS, Position
from corral.guards.latent_guard.scores import Doubles
from corral.guards.latent_guard.shards import Readings

_INVERSE_REGULARISATION: Final = 0.01  # a few hundred rows in hundreds of dimensions


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """Logistic regression on standardised states.

    Attributes:
        position: of the token.
        site: index of the site.
        mean_D: of the training states.
        scale_D: their standard deviation.
        weights_D: of the standardised states.
        bias: added to the product.
    """

    position: Position
    site: int
    mean_D: Doubles
    scale_D: Doubles
    weights_D: Doubles
    bias: float

    def score(self, readings: Readings) -> Doubles:
        """Log-odds of harm, (N,)."""
        states_ND = readings.at(self.position)[:, self.site].astype(np.float64)
        scores: Doubles = (states_ND - self.mean_D) / self.scale_D @ self.weights_D + self.bias
        return scores


def fit_probe(readings: Readings, harmful_N: NDArray[np.bool_], *, position: Position, site: int) -> LinearProbe:
    """A probe of one site.

    Raises:
        DataError: rows of one class only.
    """
    from sklearn.linear_model import LogisticRegression

    if len(set(harmful_N.tolist())) < 2:
        raise DataError("a probe needs rows of both classes")
    states_ND = readings.at(position)[:, site].astype(np.float64)
    mean_D, scale_D = states_ND.mean(axis=0), np.maximum(states_ND.std(axis=0), 1e-9)
    model = LogisticRegression(C=_INVERSE_REGULARISATION, class_weight="balanced", max_iter=1000)
    model.fit((states_ND - mean_D) / scale_D, harmful_N)
    return LinearProbe(position, site, mean_D, scale_D, model.coef_[0], float(model.intercept_[0]))


def best_probe(
    train: Readings, train_harmful_N: NDArray[np.bool_], development: Readings, harmful_N: NDArray[np.bool_]
) -> LinearProbe:
    """The probe of the position and site that tells the development rows apart best.

    Raises:
        DataError: rows of one class only.
    """
    best: tuple[float, LinearProbe] | None = None
    for position in POSITIONS:
        for site in range(train.inst_NSD.shape[1]):
            probe = fit_probe(train, train_harmful_N, position=position, site=site)
            value = auroc(harmful_N, probe.score(development))
            if value is not None and (best is None or value > best[0]):
                best = value, probe
    if best is None:
        raise DataError("the development rows have one class only")
    return best[1]
