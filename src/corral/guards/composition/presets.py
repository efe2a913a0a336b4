"""Operating points by name: strict, balanced and permissive thresholds, by language where a language needs its own.

A preset is a false-positive rate on a named development split: the lowest threshold of the harm score at which at most
that share of harmless texts is flagged. A language gets a threshold of its own only where it has enough harmless rows
*and* the common threshold misses the preset's rate there by more than chance (Wilson's interval); all others, and
texts whose language is unknown, use the common one. That keeps thresholds of rarely seen languages from following a
handful of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import numpy as np
from pydantic import Field

from corral.core.config import Config, load_config
from corral.core.errors import MetricError
from corral.core.files import atomic_write_json
from corral.core.metrics import Counts, confusion_at, threshold_at_fpr
from corral.core.stats import wilson
from corral.data.languages import UNKNOWN
from corral.data.messages import TARGETS, Target

Preset = Literal["strict", "balanced", "permissive"]
PRESETS: Final[tuple[Preset, ...]] = get_args(Preset)
RATES: Final[Mapping[Preset, float]] = {"strict": 0.10, "balanced": 0.05, "permissive": 0.01}
"""The largest share of harmless development rows that each preset flags."""
LEAST_NEGATIVES: Final = 100
"""Harmless rows that a language needs for a threshold of its own: one of them is 1 %, the permissive rate."""
PRESETS_FILE: Final = "presets.json"

Threshold = Annotated[float, Field(gt=0, lt=1)]
_EDGE: Final = 1e-6


class Thresholds(Config):
    """Thresholds of one preset for prompts, or for responses.

    Attributes:
        common: for every language without its own, and where the language is unknown.
        languages: language code to its own threshold.
    """

    common: Threshold
    languages: Mapping[str, Threshold] = Field(default_factory=dict)

    def at(self, language: str) -> float:
        """The threshold of a language."""
        return self.languages.get(language, self.common)


class LanguageRates(Config):
    """How one language of the development split fares: rates at the common threshold and at the one in use."""

    n: int
    positives: int
    common_fpr: float | None
    common_recall: float | None
    fpr: float | None
    recall: float | None


class PresetFit(Config):
    """One preset for prompts, or for responses, and what it does on the development split; "" is language unknown."""

    thresholds: Thresholds
    by_language: Mapping[str, LanguageRates] = Field(default_factory=dict)


class Presets(Config):
    """Operating points of one guard.

    Attributes:
        guard: its name.
        revision: its revision; thresholds of another one mean nothing.
        identifier: by what languages were told apart.
        split: name of the development split.
        rates: preset to the false-positive rate that it is defined by.
        targets: fits by target and preset.
    """

    schema_version: Literal[1] = 1
    guard: str
    revision: str
    identifier: str
    split: Annotated[str, Field(min_length=1)]
    rates: Mapping[Preset, float]
    targets: Mapping[Target, Mapping[Preset, PresetFit]]

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        atomic_write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> Presets:
        """Read what ``save`` wrote.

        Raises:
            NotFoundError: no such file.
            ConfigError: a field is missing, unknown or out of range; names the file.
        """
        return load_config(cls, path)  # JSON is YAML


@dataclass(frozen=True, slots=True)
class DevelopmentScores:
    """Rows of a development split as one guard scored them.

    Attributes:
        targets: (N,) what was judged.
        harmful: (N,) the label.
        p_harm: (N,) the guard's harm score, in [0, 1].
        languages: (N,) the language as it was identified, "" where unknown.
    """

    targets: Sequence[Target]
    harmful: Sequence[bool]
    p_harm: Sequence[float]
    languages: Sequence[str]


def fit_presets(
    scores: DevelopmentScores,
    *,
    guard: str,
    revision: str,
    identifier: str,
    split: str,
    rates: Mapping[Preset, float] = RATES,
) -> Presets:
    """Fit the thresholds of every preset; a target with too few rows gets none.

    Args:
        scores: the development split.
        guard: name of the guard that scored it.
        revision: its revision.
        identifier: by what the languages were told apart.
        split: name of the split.
        rates: the largest false-positive rate of each preset.

    Raises:
        MetricError: a split without a name, or too few rows of both targets.
    """
    if not split.strip():
        raise MetricError(
            "thresholds need the name of their development split",
            where="split",
            hint="Name the rows they are fitted on.",
        )
    targets: dict[Target, Mapping[Preset, PresetFit]] = {}
    for target in TARGETS:
        rows = np.flatnonzero(np.array([each == target for each in scores.targets], dtype=bool))
        labels = np.array(scores.harmful, dtype=np.int8)[rows]
        if int((labels == 0).sum()) < LEAST_NEGATIVES or not (labels == 1).any():
            continue
        p_harm = np.array(scores.p_harm, dtype=np.float64)[rows]
        languages = np.array([scores.languages[row] for row in rows.tolist()])
        targets[target] = _fit_target(labels, p_harm, languages, rates)
    if not targets:
        raise MetricError(
            f"`{split}` has too few rows to fit thresholds on",
            where="split",
            hint=f"At least {LEAST_NEGATIVES} harmless rows of prompts or of responses, and harmful ones.",
        )
    return Presets(
        guard=guard, revision=revision, identifier=identifier, split=split, rates=dict(rates), targets=targets
    )


def _fit_target(
    labels_N: np.ndarray, p_harm_N: np.ndarray, languages_N: np.ndarray, rates: Mapping[Preset, float]
) -> dict[Preset, PresetFit]:
    common = {preset: _threshold(labels_N, p_harm_N, rate) for preset, rate in rates.items()}
    of_language = {language: languages_N == language for language in sorted(set(languages_N.tolist()))}
    own = {
        language: {preset: _threshold(labels_N[rows], p_harm_N[rows], rate) for preset, rate in rates.items()}
        for language, rows in of_language.items()
        if language != UNKNOWN and _needs_its_own(labels_N[rows], p_harm_N[rows], common, rates)
    }
    fits: dict[Preset, PresetFit] = {}
    for preset in rates:
        thresholds = Thresholds(common=common[preset], languages={code: own[code][preset] for code in own})
        by_language = {
            language: _rates(labels_N[rows], p_harm_N[rows], common[preset], thresholds.at(language))
            for language, rows in of_language.items()
        }
        fits[preset] = PresetFit(thresholds=thresholds, by_language=by_language)
    return fits


def _threshold(labels_N: np.ndarray, p_harm_N: np.ndarray, rate: float) -> float:
    """The lowest threshold within the rate, moved inside (0, 1): every guard's 0 is never flagged, its 1 always."""
    found = threshold_at_fpr(labels_N, p_harm_N, rate)
    return float(np.clip(1.0 if found is None else found, _EDGE, 1 - _EDGE))


def _needs_its_own(
    labels_N: np.ndarray, p_harm_N: np.ndarray, common: Mapping[Preset, float], rates: Mapping[Preset, float]
) -> bool:
    """Whether a common threshold misses its rate here by more than chance.

    One miss gives the language its own threshold under every preset, or strict could come to lie above balanced.
    """
    if int((labels_N == 0).sum()) < LEAST_NEGATIVES:
        return False
    for preset, rate in rates.items():
        counts = confusion_at(labels_N, p_harm_N, common[preset])
        found = wilson(counts.fp, counts.negatives)
        if found.low is not None and found.high is not None and not found.low <= rate <= found.high:
            return True
    return False


def _rates(labels_N: np.ndarray, p_harm_N: np.ndarray, common: float, own: float) -> LanguageRates:
    at_common: Counts = confusion_at(labels_N, p_harm_N, common)
    at_own = confusion_at(labels_N, p_harm_N, own)
    return LanguageRates(
        n=at_own.n,
        positives=at_own.positives,
        common_fpr=at_common.fpr,
        common_recall=at_common.recall,
        fpr=at_own.fpr,
        recall=at_own.recall,
    )
