import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import GuardError
from corral.guards.media.detections import detection_score, detections, non_maximum_suppression, overlaps

LABELS = ("face", "hand")


def output(*boxes: tuple[float, float, float, float, float, float]) -> np.ndarray:
    """(1, 6, N) from rows of centre x, centre y, width, height, and a score for each label."""
    return np.array(boxes, dtype=np.float64).T[np.newaxis]


def test_overlap_is_intersection_over_union() -> None:
    box = np.array([0.0, 0.0, 10.0, 10.0])
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 5, 5], [3, 3, 3, 3]], dtype=float)
    assert overlaps(box, others) == pytest.approx([1, 50 / 150, 0, 0.25, 0])


def test_of_overlapping_boxes_of_one_label_the_best_is_kept() -> None:
    found = detections(
        output((50, 50, 20, 20, 0.8, 0.1), (51, 50, 20, 20, 0.9, 0.1), (120, 50, 20, 20, 0.7, 0.0)), LABELS
    )
    assert [(each.label, each.score) for each in found] == [("face", 0.9), ("face", 0.7)]
    assert found[0].box == (41, 40, 61, 60)


def test_boxes_of_different_labels_never_suppress_each_other() -> None:
    found = detections(output((50, 50, 20, 20, 0.8, 0.1), (50, 50, 20, 20, 0.1, 0.6)), LABELS)
    assert [each.label for each in found] == ["face", "hand"]


def test_low_scores_are_dropped_and_an_image_scores_by_its_harmful_labels() -> None:
    found = detections(output((50, 50, 20, 20, 0.2, 0.1), (80, 80, 5, 5, 0.1, 0.5), (9, 9, 5, 5, 0.9, 0.0)), LABELS)
    assert detection_score(found, {"hand"}) == 0.5
    assert detection_score(found, {"face"}) == 0.9
    assert detection_score(found, {"foot"}) == 0.0
    assert detections(np.zeros((1, 6, 0)), LABELS) == []


@given(st.lists(st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 10)] * 2, st.floats(0, 1)), max_size=8))
def test_what_is_kept_does_not_overlap_and_what_is_dropped_overlaps_a_better_box(
    rows: list[tuple[int, int, int, int, float]],
) -> None:
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h, _ in rows], dtype=float).reshape(-1, 4)
    scores = np.array([row[4] for row in rows])
    kept = non_maximum_suppression(boxes, scores, np.zeros(len(rows), dtype=np.intp), max_overlap=0.4)
    for i, index in enumerate(kept):
        others = [other for j, other in enumerate(kept) if j != i]
        assert not others or overlaps(boxes[index], boxes[others]).max() <= 0.4
    for index in set(range(len(rows))) - set(kept):
        better = [other for other in kept if scores[other] >= scores[index]]
        assert overlaps(boxes[index], boxes[better]).max() > 0.4


@pytest.mark.parametrize("shape", [(1, 5, 3), (2, 6, 3), (6,)])
def test_an_output_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(GuardError):
        detections(np.zeros(shape), LABELS)
