"""Greedy non-maximum suppression on boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nms(boxes: NDArray[np.float32], scores: NDArray[np.float32], iou_threshold: float) -> NDArray[np.int64]:
    """Indices of the boxes kept, highest score first.

    Parameters
    ----------
    boxes : (N, 4) xyxy.
    scores : (N,); equal scores keep their order.
    iou_threshold : a box goes if its IoU with a kept one is strictly above this. A box without
        area overlaps nothing.
    """
    order = np.argsort(-scores, kind="stable")
    x0, y0, x1, y1 = np.ascontiguousarray(boxes[order].astype(np.float64).T)
    area = np.maximum(x1 - x0, 0) * np.maximum(y1 - y0, 0)
    alive = np.ones(len(order), bool)
    # Boxes sorted by their left edge: only those within reach of a box can meet it.
    by_left = np.argsort(x0, kind="stable")
    left = x0[by_left]
    widest = float((x1 - x0).max()) if len(x0) else 0.0
    for i in range(len(order)):
        if not alive[i]:
            continue
        low, high = np.searchsorted(left, (x0[i] - widest, x1[i]))
        near = by_left[low:high]
        near = near[near > i]
        overlap = np.clip(np.minimum(x1[near], x1[i]) - np.maximum(x0[near], x0[i]), 0, None)
        overlap *= np.clip(np.minimum(y1[near], y1[i]) - np.maximum(y0[near], y0[i]), 0, None)
        union = area[near] + area[i] - overlap
        alive[near[overlap > iou_threshold * np.maximum(union, 1e-12)]] = False
    return order[alive]
