"""Belief scores: how much nearer a hidden state is to one centre than to the other.

Per site ``s(h) = cos(h, positive centre) - cos(h, negative centre)``, and Delta their mean over sites (arXiv
2507.11878, section 4). Hidden states share a large common component, so that raw cosines are all near 1 and Delta is
small; ours, not the paper's, are the options to take the grand mean of the centres out first, and to divide by the
spread within classes. Everything is computed in float64.

Legend: N rows, S sites, D hidden size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from corral.core.errors import ConfigError, DataError

Doubles = NDArray[np.float64]
AnyFloats = NDArray[Any]

Transform = Literal["raw", "centred", "whitened"]
TRANSFORMS: Final[tuple[Transform, ...]] = get_args(Transform)
MIN_ROWS: Final = 8
"""Fewest rows of a class that a centre is taken of."""
_CHOICE: Final = re.compile(r"(?:all|(?P<kind>last|site):(?P<number>[0-9]+))")


@dataclass(frozen=True, slots=True)
class ClassCentres:
    """Two centres and the spread around them, by site.

    Attributes:
        positive_SD: mean state of the positive class (harmful, or refused).
        negative_SD: of the negative class.
        spread_SD: standard deviation within the classes, both counting equally.
        positives: rows behind the first.
        negatives: rows behind the second.
    """

    positive_SD: Doubles
    negative_SD: Doubles
    spread_SD: Doubles
    positives: int
    negatives: int

    @property
    def direction(self) -> Doubles:
        """Difference of the means, (S, D)."""
        return self.positive_SD - self.negative_SD


class RunningMoments:
    """Mean and variance of arrays that come in parts, in float64 (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: Doubles | None = None
        self._squares: Doubles | None = None

    def add(self, rows: AnyFloats) -> None:
        """Take in rows (N, ...); none is fine."""
        if not len(rows):
            return
        values = np.asarray(rows, dtype=np.float64)
        mean = values.mean(axis=0)
        squares = np.square(values - mean).sum(axis=0)
        if self._mean is None or self._squares is None:
            self.count, self._mean, self._squares = len(values), mean, squares
            return
        total = self.count + len(values)
        shift = mean - self._mean
        self._mean = self._mean + shift * (len(values) / total)
        self._squares = self._squares + squares + np.square(shift) * (self.count * len(values) / total)
        self.count = total

    @property
    def mean(self) -> Doubles:
        """Of all rows so far."""
        if self._mean is None:
            raise DataError("a mean of no rows")
        return self._mean

    @property
    def variance(self) -> Doubles:
        """Population variance of all rows so far."""
        if self._squares is None:
            raise DataError("a variance of no rows")
        return self._squares / self.count


def class_centres(positive: RunningMoments, negative: RunningMoments, names: tuple[str, str]) -> ClassCentres:
    """Centres of two classes.

    Raises:
        DataError: a class with fewer than ``MIN_ROWS`` rows.
    """
    for moments, name in zip((positive, negative), names, strict=True):
        if moments.count < MIN_ROWS:
            raise DataError(
                f"{moments.count} rows are {name}, a centre needs {MIN_ROWS}",
                hint=f"Give more rows that are {name}, or another rule of what counts as {name}.",
            )
    spread = np.sqrt((positive.variance + negative.variance) / 2)
    return ClassCentres(positive.mean, negative.mean, spread, positive.count, negative.count)


def centres_of_rows(
    positive_NSD: AnyFloats, negative_NSD: AnyFloats, names: tuple[str, str] = ("positive", "negative")
) -> ClassCentres:
    """Centres of two classes that are at hand as arrays.

    Raises:
        DataError: a class with fewer than ``MIN_ROWS`` rows.
    """
    moments = RunningMoments(), RunningMoments()
    moments[0].add(positive_NSD)
    moments[1].add(negative_NSD)
    return class_centres(*moments, names)


def site_scores(states_NSD: AnyFloats, centres: ClassCentres, transform: Transform = "raw") -> Doubles:
    """Difference of cosines at every site, (N, S).

    Args:
        states_NSD: states at the sites that the centres are of.
        centres: of the two classes.
        transform: ``raw`` as published; ``centred`` takes the mean of the two centres out of everything first;
            ``whitened`` divides by the spread within classes besides.

    Raises:
        DataError: states of another shape than the centres'.
    """
    states = np.asarray(states_NSD, dtype=np.float64)
    if states.shape[1:] != centres.positive_SD.shape:
        raise DataError(f"states of shape `{states.shape}`, centres of shape `{centres.positive_SD.shape}`")
    positive, negative = centres.positive_SD, centres.negative_SD
    if transform != "raw":
        middle = (positive + negative) / 2
        states, positive, negative = states - middle, positive - middle, negative - middle
    if transform == "whitened":
        spread = np.maximum(centres.spread_SD, np.finfo(np.float32).tiny)
        states, positive, negative = states / spread, positive / spread, negative / spread
    return _cosine(states, positive) - _cosine(states, negative)


def choose_sites(choice: str, sites: int) -> slice:
    """The sites that Delta is a mean over.

    Args:
        choice: ``all``, ``last:K`` for the highest K, ``site:I`` for one.
        sites: how many there are.

    Raises:
        ConfigError: none of these, or more sites than there are.
    """
    match = _CHOICE.fullmatch(choice)
    if match is None:
        raise ConfigError(f"`{choice}` chooses no sites", where="sites", hint="Use `all`, `last:K` or `site:I`.")
    if match["kind"] is None:
        return slice(0, sites)
    number = int(match["number"])
    if match["kind"] == "site" and number < sites:
        return slice(number, number + 1)
    if match["kind"] == "last" and 1 <= number <= sites:
        return slice(sites - number, sites)
    raise ConfigError(
        f"`{choice}`: there are {sites} sites", where="sites", hint=f"They are numbered 0 to {sites - 1}."
    )


def delta(scores_NS: Doubles, choice: str = "all") -> Doubles:
    """Mean over the chosen sites, (N,).

    Raises:
        ConfigError: see ``choose_sites``.
    """
    chosen: Doubles = scores_NS[:, choose_sites(choice, scores_NS.shape[1])].mean(axis=1)
    return chosen


def cosines(first_SD: AnyFloats, second_SD: AnyFloats) -> Doubles:
    """Cosine of two directions at every site, (S,)."""
    by_site: Doubles = _cosine(np.asarray(first_SD, dtype=np.float64)[None], np.asarray(second_SD, dtype=np.float64))[0]
    return by_site


def _cosine(states_NSD: Doubles, centre_SD: Doubles) -> Doubles:
    """(N, S); 0 where a vector has no length."""
    product = np.einsum("nsd,sd->ns", states_NSD, centre_SD)
    length = np.linalg.norm(states_NSD, axis=-1) * np.linalg.norm(centre_SD, axis=-1)
    cosine: Doubles = np.divide(product, length, out=np.zeros_like(product), where=length > 0)
    return cosine
