"""Label images: int32, 0 is background, every object has its own positive id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

LabelImage = NDArray[np.int32]


def relabel_sequential(labels: NDArray[np.integer]) -> LabelImage:
    """Renumber the objects 1…N in rising order of their ids.

    Parameters
    ----------
    labels : integer array of any shape
        0 is background; ids may have gaps and exceed 16 bits.

    Returns
    -------
    int32 array of the same shape.
    """
    ids, inverse = np.unique(labels, return_inverse=True)
    new_ids = np.cumsum(ids != 0).astype(np.int32)
    new_ids[ids == 0] = 0
    return new_ids[inverse].reshape(labels.shape)


def bounding_boxes(labels: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Smallest boxes around the objects of a 2D label image.

    Parameters
    ----------
    labels : (H, W) integer array, ids preferably compact (memory grows with the highest id).

    Returns
    -------
    ids : (N,) int64, rising.
    boxes : (N, 4) int64, (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
    """
    slices = ndimage.find_objects(labels)
    ids = [i for i, s in enumerate(slices, start=1) if s is not None]
    boxes = [(s[1].start, s[0].start, s[1].stop, s[0].stop) for s in slices if s is not None]
    return np.asarray(ids, np.int64), np.asarray(boxes, np.int64).reshape(-1, 4)


def labels_from_masks(masks: Sequence[NDArray[np.bool_]], shape: tuple[int, int]) -> LabelImage:
    """One label image from full-frame masks; where masks meet, the first one keeps the pixel.

    Parameters
    ----------
    masks : sequence of (H, W) bool arrays, at most 2**31 - 1 of them.
    shape : (H, W), used when there are no masks.

    Raises
    ------
    ValueError
        If a mask has another shape.
    """
    labels = np.zeros(shape, np.int32)
    for label, mask in enumerate(masks, start=1):
        if mask.shape != shape:
            raise ValueError(f"mask {label} has shape {mask.shape}, the image {shape}")
        labels[mask & (labels == 0)] = label
    return labels
