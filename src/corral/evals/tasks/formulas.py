"""How a measure is computed from per-sample values: as data, so that a saved scorecard can be paired with another.

Each formula names the values it reads and gives a ``Statistic`` of row weights (``core/weighted``): the figure is the
statistic at weights 1, its interval and every paired difference come from resampled weights.

Shapes: N samples, R replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from corral.core import weighted
from corral.core.length_control import length_controlled_win_rate
from corral.core.metric_inputs import Flags, Floats
from corral.core.weighted import Statistic


class _Formula(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    _reads: ClassVar[tuple[str, ...]]
    """The fields that hold names of values."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the values, in the order in which ``statistic`` takes them."""
        return tuple(getattr(self, field) for field in self._reads)

    def share_of(self, columns: Sequence[Floats]) -> Flags | None:
        """(N,) the samples that the figure is a share of; ``None`` when it is not a share."""
        del columns
        return None


class Mean(_Formula):
    """Mean of a value; of 0 and 1 a share."""

    kind: Literal["mean"] = "mean"
    value: str

    _reads: ClassVar[tuple[str, ...]] = ("value",)

    def statistic(self, columns: Sequence[Floats]) -> Statistic:
        """The formula over (N,) columns of the values that it reads."""
        return weighted.mean(columns[0])

    def share_of(self, columns: Sequence[Floats]) -> Flags | None:
        """(N,) the samples that the figure is a share of; ``None`` when it is not a share."""
        values_N = columns[0]
        return np.ones(len(values_N), dtype=np.bool_) if np.isin(values_N, (0.0, 1.0)).all() else None


class RatioOfSums(_Formula):
    """Sum of one value over the sum of another, such as bits over bytes; long samples count for more."""

    kind: Literal["ratio_of_sums"] = "ratio_of_sums"
    numerator: str
    denominator: str

    _reads: ClassVar[tuple[str, ...]] = (
        "numerator",
        "denominator",
    )

    def statistic(self, columns: Sequence[Floats]) -> Statistic:
        """The formula over (N,) columns of the values that it reads."""
        numerator_N, denominator_N = columns
        return lambda weights_NR: _ratio(numerator_N @ weights_NR, denominator_N @ weights_NR)


class ExpRatioOfSums(_Formula):
    """exp of a ratio of sums: perplexity is exp(nats / tokens)."""

    kind: Literal["exp_ratio_of_sums"] = "exp_ratio_of_sums"
    numerator: str
    denominator: str

    _reads: ClassVar[tuple[str, ...]] = (
        "numerator",
        "denominator",
    )

    def statistic(self, columns: Sequence[Floats]) -> Statistic:
        """The formula over (N,) columns of the values that it reads."""
        numerator_N, denominator_N = columns
        return lambda weights_NR: np.exp(_ratio(numerator_N @ weights_NR, denominator_N @ weights_NR))


class RateAt(_Formula):
    """A figure of the confusion matrix; ``truth`` and ``flagged`` are 0 or 1."""

    kind: Literal["rate"] = "rate"
    truth: str
    flagged: str
    rate: weighted.Rate

    _reads: ClassVar[tuple[str, ...]] = (
        "truth",
        "flagged",
    )

    def statistic(self, columns: Sequence[Floats]) -> Statistic:
        """The formula over (N,) columns of the values that it reads."""
        truth_N, flagged_N = columns
        return weighted.rate(truth_N, flagged_N == 1, self.rate)

    def share_of(self, columns: Sequence[Floats]) -> Flags | None:
        """(N,) the samples that the figure is a share of; ``None`` when it is not a share."""
        truth_N, flagged_N = columns
        rows: dict[weighted.Rate, Flags] = {
            "precision": flagged_N == 1,
            "recall": truth_N == 1,
            "fnr": truth_N == 1,
            "fpr": truth_N == 0,
            "accuracy": np.ones(len(truth_N), dtype=np.bool_),
            "flag_rate": np.ones(len(truth_N), dtype=np.bool_),
        }
        return rows.get(self.rate)


class F1OverFlagAll(_Formula):
    """F1 minus the F1 of flagging every sample, which a guard has to beat by its interval."""

    kind: Literal["f1_over_flag_all"] = "f1_over_flag_all"
    truth: str
    flagged: str

    _reads: ClassVar[tuple[str, ...]] = ("truth", "flagged")

    def statistic(self, columns: Sequence[Floats]) -> Statistic:
        """The formula over (N,) columns of the values that it reads."""
        truth_N, flagged_N = columns
        ours = weighted.rate(truth_N, flagged_N == 1, "f1")
        flag_all = weighted.rate(truth_N, np.ones(len(truth_N), dtype=np.bool_), "f1")
        return lambda weights_NR: ours(weights_NR) - flag_all(weights_NR)


class AveragePrecision(_Formula):
    """Average precision of ``score`` for ``truth``, ties grouped."""

    kind: Literal["average_precision"] = "average_precision"
    truth: str
    score: str

    _reads: ClassVar[tuple[str, ...]] = (
        "truth",
        "score",
    )

    def statistic(self, columns: Sequence[Floats]) -> Statistic:
        """The formula over (N,) columns of the values that it reads."""
        return weighted.average_precision(*columns)


class Auroc(_Formula):
    """Probability that a positive scores above a negative, a tie counting half."""

    kind: Literal["auroc"] = "auroc"
    truth: str
    score: str

    _reads: ClassVar[tuple[str, ...]] = (
        "truth",
        "score",
    )

    def statistic(self, columns: Sequence[Floats]) -> Statistic:
        """The formula over (N,) columns of the values that it reads."""
        return weighted.auroc(*columns)


class Quantile(_Formula):
    """The smallest value that at least the share ``q`` of the samples does not exceed (the inverted distribution)."""

    kind: Literal["quantile"] = "quantile"
    value: str
    q: float = Field(gt=0, lt=1)

    _reads: ClassVar[tuple[str, ...]] = ("value",)

    def statistic(self, columns: Sequence[Floats]) -> Statistic:
        """The formula over (N,) columns of the values that it reads."""
        order = np.argsort(columns[0], kind="stable")
        ranked_N = columns[0][order]

        def statistic(weights_NR: Floats) -> Floats:
            below_NR = weights_NR[order].cumsum(axis=0)
            reached_NR = below_NR >= self.q * below_NR[-1]
            return np.where(below_NR[-1] > 0, ranked_N[reached_NR.argmax(axis=0)], np.nan)

        return statistic


class Peak(_Formula):
    """The largest value, such as peak memory. A maximum has no bootstrap interval, so none is given."""

    kind: Literal["peak"] = "peak"
    value: str

    _reads: ClassVar[tuple[str, ...]] = ("value",)

    def statistic(self, columns: Sequence[Floats]) -> Statistic:
        """The formula over (N,) columns of the values that it reads."""
        values_N1 = columns[0][:, None]
        return lambda weights_NR: np.where(weights_NR > 0, values_N1, -np.inf).max(axis=0)


class LengthControlledWinRate(_Formula):
    """Share of wins expected if both answers were of one length; see ``core/length_control``."""

    kind: Literal["length_controlled_win_rate"] = "length_controlled_win_rate"
    win: str
    difference: str

    _reads: ClassVar[tuple[str, ...]] = ("win", "difference")

    def statistic(self, columns: Sequence[Floats]) -> Statistic:
        """The formula over (N,) columns of the values that it reads."""
        return length_controlled_win_rate(*columns)


Formula = Annotated[
    Mean
    | RatioOfSums
    | ExpRatioOfSums
    | RateAt
    | F1OverFlagAll
    | AveragePrecision
    | Auroc
    | Quantile
    | Peak
    | LengthControlledWinRate,
    Field(discriminator="kind"),
]


def _ratio(numerator_R: Floats, denominator_R: Floats) -> Floats:
    """Quotient, NaN where the denominator is 0."""
    defined = denominator_R != 0
    return np.where(defined, numerator_R / np.where(defined, denominator_R, 1.0), np.nan)
