"""Body-part and object detectors of the YOLOv8 kind: from raw output to boxes, and from boxes to an image's score.

Output of such a detector is (1, 4 + C, N): for each of N candidate boxes its centre, width and height in pixels of the
model's input, and a score for each of C labels. Boxes under a score are dropped, and of boxes of one label that overlap
the best is kept (greedy non-maximum suppression).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corral.core.errors import GuardError
from corral.core.metric_inputs import Floats

_BOX_VALUES = 4


@dataclass(frozen=True, slots=True)
class Detection:
    """One box: label, score in [0, 1], and left, top, right, bottom in pixels of the model's input."""

    label: str
    score: float
    box: tuple[float, float, float, float]


def detections(
    output: npt.NDArray[np.floating], labels: Sequence[str], *, min_score: float = 0.25, max_overlap: float = 0.45
) -> list[Detection]:
    """The boxes that a detector found, highest scores first.

    Args:
        output: (1, 4 + C, N) or (4 + C, N).
        labels: C names.
        min_score: lower scores are dropped.
        max_overlap: intersection over union above which the lower of two boxes of one label is dropped.

    Raises:
        GuardError: another shape, or values that are not finite.
    """
    values = np.asarray(output, dtype=np.float64)
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2 or values.shape[0] != _BOX_VALUES + len(labels) or not np.isfinite(values).all():
        raise GuardError(f"a detector of {len(labels)} labels gave an output of shape {np.shape(output)}")
    scores_CN = values[_BOX_VALUES:]
    best_N = scores_CN.argmax(axis=0)
    score_N = scores_CN.max(axis=0)
    kept = np.flatnonzero(score_N >= min_score)
    corners = _corners(values[:_BOX_VALUES, kept].T)
    chosen = non_maximum_suppression(corners, score_N[kept], best_N[kept], max_overlap=max_overlap)
    return [Detection(labels[int(best_N[kept[i]])], float(score_N[kept[i]]), _as_box(corners[i])) for i in chosen]


def non_maximum_suppression(
    boxes_N4: Floats, scores_N: Floats, labels_N: npt.NDArray[np.intp], *, max_overlap: float
) -> list[int]:
    """Indices of the boxes that are kept, highest scores first; of equal scores the one that stands first.

    Args:
        boxes_N4: left, top, right, bottom.
        scores_N: of the boxes.
        labels_N: boxes of different labels never suppress each other.
        max_overlap: largest intersection over union of two boxes of one label that are both kept.
    """
    kept: list[int] = []
    for index in np.argsort(-scores_N, kind="stable").tolist():
        rivals = [other for other in kept if labels_N[other] == labels_N[index]]
        if not rivals or overlaps(boxes_N4[index], boxes_N4[rivals]).max() <= max_overlap:
            kept.append(index)
    return kept


def overlaps(box_4: Floats, others_N4: Floats) -> Floats:
    """Intersection over union of a box with each of N others; 0 where both are empty."""
    low = np.maximum(box_4[:2], others_N4[:, :2])
    high = np.minimum(box_4[2:], others_N4[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = np.clip(others_N4[:, 2:] - others_N4[:, :2], 0, None).prod(axis=1)
    own = float(np.clip(box_4[2:] - box_4[:2], 0, None).prod())
    union = own + areas - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1.0), 0.0)


def detection_score(found: Sequence[Detection], harmful: Collection[str]) -> float:
    """An image's score: the highest over boxes of harmful labels, 0 without any."""
    return max((each.score for each in found if each.label in harmful), default=0.0)


def _corners(centred_N4: Floats) -> Floats:
    half = centred_N4[:, 2:] / 2
    return np.concatenate([centred_N4[:, :2] - half, centred_N4[:, :2] + half], axis=1)


def _as_box(corners: Floats) -> tuple[float, float, float, float]:
    left, top, right, bottom = corners.tolist()
    return left, top, right, bottom
