"""Scores of a trained guard on held-out rows, and the calibration that is fitted to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from corral.core.errors import ConfigError, MetricError
from corral.core.metrics import auroc, average_precision
from corral.core.progress import progress
from corral.data.examples import ModerationExample
from corral.data.messages import TARGETS, Conversation
from corral.guards.calibration import Calibration, fit_calibration
from corral.guards.default.guard import TrainedGuard
from corral.guards.default.network import BINARY_HEADS, category_codes
from corral.train.guard.classifier_labels import binary_labels, category_labels

DEVELOPMENT_SPLIT: Final = "held-out groups of the training mixture"
_SCORED_AT_ONCE: Final = 128
_NEUTRAL_PROMPT: Final = "Go on."
_LEAST_POSITIVES: Final = 30  # a category with fewer on the development split keeps its natural boundary


def score_rows(
    guard: TrainedGuard, rows: Sequence[ModerationExample], *, as_replies: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores as the shipped guard gives them (windows, merged weights), and labels, each (N, heads + categories).

    A prompt that is harmful in itself or harmless is that as a reply too, so prompts are judged as replies as well:
    the few labelled replies are English, and would set an operating point that blocks harmless ones elsewhere.
    An unknown label is negative; a row that the guard cannot score is left out.

    Args:
        guard: that scores.
        rows: labelled rows.
        as_replies: judge prompts as replies too.
    """
    replies = [
        replace(row, conversation=Conversation.exchange(_NEUTRAL_PROMPT, row.text), target="response", categories={})
        for row in rows
        if as_replies and row.target == "prompt" and row.harmful is not None
    ]
    codes = category_codes()
    scores: list[np.ndarray] = []
    labels: list[list[float]] = []
    for row, scored in _raw_scores(guard, [*rows, *replies]):
        if scored is not None:
            scores.append(scored)
            labels.append([*binary_labels(row), *category_labels(row, codes)])
    shape = (len(scores), len(BINARY_HEADS) + len(codes))
    return np.array(scores).reshape(shape), np.array(labels).reshape(shape)


def _raw_scores(
    guard: TrainedGuard, rows: Sequence[ModerationExample]
) -> Iterator[tuple[ModerationExample, np.ndarray | None]]:
    for target in TARGETS:
        judged = [row for row in rows if row.target == target]
        for start in progress(range(0, len(judged), _SCORED_AT_ONCE), f"Scoring held-out {target}s"):
            batch = judged[start : start + _SCORED_AT_ONCE]
            yield from zip(batch, guard.raw_scores([row.conversation for row in batch], target=target), strict=True)


def calibrate(
    scores_NK: np.ndarray, labels_NK: np.ndarray, *, max_fpr: Mapping[str, float], split: str = DEVELOPMENT_SPLIT
) -> dict[str, Calibration]:
    """A calibration for each head and each category with enough labels; the others keep their natural boundary.

    Raises:
        ConfigError: ``max_fpr`` names no head.
    """
    names = (*BINARY_HEADS, *category_codes())
    if unknown := sorted(set(max_fpr) - set(names)):
        raise ConfigError(f"no head is called `{unknown[0]}`", where="max_fpr")
    fitted = {}
    for column, name in enumerate(names):
        known = labels_NK[:, column] >= 0
        labels, scores = labels_NK[known, column], scores_NK[known, column]
        if min((labels == 1).sum(), (labels == 0).sum()) < _LEAST_POSITIVES:
            continue
        try:
            fitted[name] = fit_calibration(scores, labels, split=split, max_fpr=max_fpr.get(name))
        except MetricError:
            continue  # scores that do not rise with the label: the natural boundary is the better choice
    return fitted


def development_scores(scores_NK: np.ndarray, labels_NK: np.ndarray) -> dict[str, Any]:
    """Average precision and AUROC of every head on the development split, for orientation only."""
    out = {}
    for column, name in enumerate((*BINARY_HEADS, *category_codes())):
        known = labels_NK[:, column] >= 0
        labels, scores = labels_NK[known, column], scores_NK[known, column]
        if 0 < (labels == 1).sum() < len(labels):
            out[name] = {
                "n": len(labels),
                "positives": int((labels == 1).sum()),
                "average_precision": average_precision(labels, scores),
                "auroc": auroc(labels, scores),
            }
    return out
