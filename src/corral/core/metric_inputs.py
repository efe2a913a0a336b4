"""What metrics are computed on: labels, scores and decisions as checked arrays.

A label is 1 (the positive class: unsafe, or refusal), 0, or ``UNKNOWN``. Anything else, a score that is not finite, or
columns of different lengths is an error with a name, never a figure.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from corral.core.errors import MetricError

Floats: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.int8]
Flags: TypeAlias = npt.NDArray[np.bool_]
Indices: TypeAlias = npt.NDArray[np.intp]
Values: TypeAlias = Sequence[Any] | npt.NDArray[Any]

UNKNOWN: Final = -1

Treatment = Literal["unsafe", "safe", "drop"]


def as_labels(values: Values) -> Labels:
    """Labels in {0, 1, UNKNOWN} from booleans, numbers and, for unknown, ``None`` or NaN; any shape.

    Raises:
        MetricError: another value; names the first.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise MetricError(f"labels do not form a table: {error}") from error
    if array.dtype.kind == "O":
        array = np.array([_number_or_nan(value) for value in array.ravel().tolist()]).reshape(array.shape)
    elif array.dtype.kind not in "biuf":
        raise MetricError(f"labels are of type `{array.dtype}`", hint="Give 0, 1, or None where unknown.")
    numbers = np.where(np.isnan(array), UNKNOWN, array)
    wrong = numbers[~np.isin(numbers, (0, 1, UNKNOWN))]
    if wrong.size:
        raise MetricError(f"label `{wrong[0]}` is not 0, 1 or unknown", hint="Give None where unknown.")
    return numbers.astype(np.int8)


def as_binary(values: Values) -> Labels:
    """Labels in {0, 1} in one dimension.

    Raises:
        MetricError: an unknown label, or any other value.
    """
    labels = as_labels(values)
    _require_one_dimension(labels)
    if (labels == UNKNOWN).any():
        raise MetricError("unknown labels have to be dropped first", hint="Use `drop_unknown`.")
    return labels


def as_scores(values: Values) -> Floats:
    """Finite scores, any shape.

    Raises:
        MetricError: a value is not a finite number; names its index.
    """
    try:
        scores = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MetricError(f"scores are not numbers: {error}") from error
    if not np.isfinite(scores).all():
        index = int(np.flatnonzero(~np.isfinite(scores).ravel())[0])
        raise MetricError(
            f"score {index} is `{scores.ravel()[index]}`", hint="Say what an unscored item counts as: `fill_unscored`."
        )
    return scores


def as_probabilities(values: Values) -> Floats:
    """Scores in [0, 1].

    Raises:
        MetricError: a value is outside or not finite.
    """
    scores = as_scores(values)
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
        raise MetricError(f"scores span [{scores.min():g}, {scores.max():g}]; probabilities are needed")
    return scores


def as_flags(values: Values) -> Flags:
    """Decisions as booleans.

    Raises:
        MetricError: a decision is neither true nor false; one that a guard could not take is among them.
    """
    labels = as_labels(values)
    if (labels == UNKNOWN).any():
        raise MetricError("a decision is missing", hint="Say what an undecided item counts as, by the policy.")
    flags: Flags = labels == 1
    return flags


def require_equal_lengths(*columns: Sequence[Any] | npt.NDArray[Any]) -> None:
    """Check that columns describe the same items.

    Raises:
        MetricError: their lengths differ.
    """
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise MetricError(f"lengths differ: {', '.join(str(length) for length in lengths)}")


def drop_unknown(labels: Values, scores: Values) -> tuple[Labels, Floats, Indices]:
    """The items whose label is known: labels, scores, and their indices in what was given."""
    known, numbers = as_labels(labels), as_scores(scores)
    _require_one_dimension(known)
    _require_one_dimension(numbers)
    require_equal_lengths(known, numbers)
    rows = np.flatnonzero(known != UNKNOWN)
    return known[rows], numbers[rows], rows


def fill_unscored(
    labels: Values, scores: Values, treatment: Treatment, *, lowest: float = 0.0, highest: float = 1.0
) -> tuple[Labels, Floats, Indices]:
    """Decide what items without a score (``None`` or NaN) count as.

    Args:
        labels: (N,) labels.
        scores: (N,) scores; ``None`` or NaN where the guard gave none.
        treatment: score them ``highest`` (unsafe), ``lowest`` (safe), or drop them.
        lowest: score of an item that is surely safe.
        highest: score of an item that is surely unsafe.

    Returns:
        Labels, scores and the indices of the items that are left.
    """
    known = as_labels(labels)
    numbers = np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
    require_equal_lengths(known, numbers)
    missing = np.isnan(numbers)
    if treatment == "drop":
        rows = np.flatnonzero(~missing)
        return known[rows], numbers[rows], rows
    filled = np.where(missing, highest if treatment == "unsafe" else lowest, numbers)
    return known, filled, np.arange(len(known))


def check_ids(ids: Sequence[Hashable], labels: Values) -> None:
    """Check that no id stands for two labels.

    Raises:
        MetricError: one does; names it.
    """
    known = as_labels(labels)
    require_equal_lengths(ids, known)
    seen: dict[Hashable, int] = {}
    for identifier, label in zip(ids, known.tolist(), strict=True):
        if seen.setdefault(identifier, label) != label:
            raise MetricError(f"id `{identifier}` is given with two labels")


def _number_or_nan(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool | int | float):
        return float(value)
    raise MetricError(f"label `{value}` is not 0, 1 or unknown", hint="Give None where unknown.")


def _require_one_dimension(array: npt.NDArray[Any]) -> None:
    if array.ndim != 1:
        raise MetricError(f"expected one value an item, got an array of shape {array.shape}")
