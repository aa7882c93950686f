"""Label images: int32, 0 is background, every object has its own positive id."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_deepretina.errors import UserError

LabelImage = NDArray[np.int32]
IN_MEMORY = 2**30
"""Labels of more bytes lie in a temporary file that is mapped into memory."""
_COMMON = 1_000_000
"""Ids up to this, or to the number of pixels, are looked up in tables."""


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
    ids, ranks, _ = ranked(labels)
    new_ids = np.cumsum(ids != 0).astype(np.int32)
    new_ids[ids == 0] = 0
    return new_ids[ranks]


def fitting_int32(labels: NDArray[Any]) -> tuple[LabelImage, bool]:
    """A label image of any integer type as int32, and whether it was renumbered for that.

    Ids that int32 holds stay as they are; if one is larger, all are renumbered 1…N in rising order: none is
    ever wrapped around.

    Raises
    ------
    UserError
        If an id is negative.
    """
    if labels.dtype == bool:
        return labels.astype(np.int32), False
    if labels.size and labels.dtype.kind == "i" and labels.min() < 0:
        raise UserError(f"the label image holds the id {labels.min()}: ids are positive, and 0 is background")
    if labels.size and labels.max() > np.iinfo(np.int32).max:
        return relabel_sequential(labels), True
    return labels.astype(np.int32, copy=False), False


def sizes_of(labels: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of the objects of a label image, rising, and their numbers of pixels; ids may be of any size."""
    if labels.size and int(labels.max()) > max(_COMMON, labels.size):  # tables grow with the highest id
        ids, counts = np.unique(labels[labels > 0], return_counts=True)
        return ids.astype(np.int64), counts.astype(np.int64)
    table = np.bincount(labels.ravel())
    table[:1] = 0
    found = np.flatnonzero(table)
    return found, table[found]


def ranked(
    labels: NDArray[np.integer],
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """What ``numpy.unique`` gives, without sorting the pixels where the ids are not too high for a table.

    Parameters
    ----------
    labels : of any shape and integer type.

    Returns
    -------
    ids : (K,) those that occur, 0 among them, rising, of the labels' type.
    ranks : of the labels' shape, the place of each pixel's id among `ids`.
    counts : (K,) pixels of each.
    """
    if not labels.size or labels.min() < 0 or int(labels.max()) > max(_COMMON, labels.size):
        ids, ranks, counts = np.unique(labels, return_inverse=True, return_counts=True)
        return ids, ranks.reshape(labels.shape), counts
    places = labels.astype(np.intp, copy=False)
    table = np.bincount(places.ravel())
    found = np.flatnonzero(table)
    rank = np.zeros(len(table), np.int64)
    rank[found] = np.arange(len(found))
    return found.astype(labels.dtype), rank[places], table[found]


def bounding_boxes(labels: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Smallest boxes around the objects of a 2D label image.

    Parameters
    ----------
    labels : (H, W) integer array; ids may have gaps of any size.

    Returns
    -------
    ids : (N,) int64, rising.
    boxes : (N, 4) int64, (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
    """
    found = None
    if labels.size and int(labels.max()) > max(
        1_000_000, labels.size
    ):  # tables would grow with the highest id
        found = np.unique(labels[labels > 0])
        labels = relabel_sequential(labels)
    slices = ndimage.find_objects(labels)
    ids = [i for i, s in enumerate(slices, start=1) if s is not None]
    if found is not None:
        ids = found.tolist()
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


def room_for(shape: tuple[int, ...]) -> LabelImage:
    """Zeros, in memory or, if they are many, in a temporary file that goes with them.

    Raises
    ------
    UserError
        If the disk has no room for the file. All of it is taken at once, for where a mapped file grows on a
        full disk, the system ends the program.
    """
    size = math.prod(shape) * 4
    if size <= IN_MEMORY:
        return np.zeros(shape, np.int32)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.int32, "w+", shape=shape)
    except OSError as error:
        raise UserError(
            f"the labels need {size / 1e9:.3g} GB in {tempfile.gettempdir()}: {error.strerror or error}; "
            "make room there, or name another folder in the environment's TMPDIR"
        ) from None
