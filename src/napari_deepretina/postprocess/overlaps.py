"""Every pixel belongs to one nucleus at most; of several classes, to one object of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.instances import Instances


def resolve_overlaps(
    instances: Instances, *, max_lost: float, min_area: int = 1
) -> tuple[Instances, NDArray[np.int64]]:
    """Give each pixel to the highest score that claims it, and drop what is left over too small.

    A nucleus that is dropped gives its pixels back to those behind it. Objects of different classes do not
    take pixels from each other.

    Parameters
    ----------
    instances : may overlap; equal scores keep their order.
    max_lost : one that loses more than this share of its pixels is dropped.
    min_area : one with fewer pixels left is dropped.

    Returns
    -------
    instances : disjoint in each class, highest score first.
    index : (N',) int64, where each one stood in the input.
    """
    taken = {label: np.zeros(instances.shape, bool) for label in set(instances.classes.tolist())}
    classes = instances.classes.tolist()
    kept: list[int] = []
    masks: list[NDArray[np.bool_]] = []
    boxes = instances.boxes.tolist()
    for i in np.argsort(-instances.scores, kind="stable").tolist():
        x0, y0, x1, y1 = boxes[i]
        here = taken[classes[i]][y0:y1, x0:x1]
        free = instances.masks[i] & ~here
        area, left = np.count_nonzero(instances.masks[i]), np.count_nonzero(free)
        if left < max(1, min_area) or area - left > max_lost * area:
            continue
        here |= free
        kept.append(i)
        masks.append(free)
    index = np.asarray(kept, np.int64)
    chosen = instances[index]
    return chosen.with_masks(chosen.boxes, masks), index
