import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_deepretina.postprocess.nms import nms


def iou(a, b):
    overlap = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union else 0


def greedy(boxes, scores, threshold):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


corner, side = st.integers(0, 12), st.integers(0, 8)


@given(
    st.lists(st.tuples(corner, corner, side, side, st.integers(0, 5)), max_size=25),
    st.sampled_from([0.0, 0.2, 0.5, 0.9]),
)
def test_equals_the_plain_greedy_loop(rows, threshold):
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in rows], np.float32).reshape(-1, 4)
    scores = np.array([s / 5 for *_, s in rows], np.float32)
    assert nms(boxes, scores, threshold).tolist() == greedy(boxes.tolist(), scores, threshold)


def test_the_threshold_itself_is_kept():
    boxes = np.array([[0, 0, 2, 1], [1, 0, 3, 1]], np.float32)  # IoU is one third
    scores = np.array([0.9, 0.8], np.float32)
    assert len(nms(boxes, scores, 1 / 3)) == 2
    assert len(nms(boxes, scores, 0.33)) == 1
    assert nms(boxes[::-1], scores, 0.33) == pytest.approx([0])
