"""Every pixel belongs to one nucleus at most; of several classes, to one object of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.instances import Instances

WIDE = 50_000_000
"""Pixels from which on an image keeps what is taken as bits: slower, an eighth of the memory."""


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
    store = _Bits if instances.shape[0] * instances.shape[1] > WIDE else _Bytes
    taken = {label: store(instances.shape) for label in set(instances.classes.tolist())}
    classes = instances.classes.tolist()
    kept: list[int] = []
    masks: list[NDArray[np.bool_]] = []
    boxes = instances.boxes.tolist()
    for i in np.argsort(-instances.scores, kind="stable").tolist():
        free = instances.masks[i] & ~taken[classes[i]].within(boxes[i])
        area, left = np.count_nonzero(instances.masks[i]), np.count_nonzero(free)
        if left < max(1, min_area) or area - left > max_lost * area:
            continue
        taken[classes[i]].add(boxes[i], free)
        kept.append(i)
        masks.append(free)
    index = np.asarray(kept, np.int64)
    chosen = instances[index]
    return chosen.with_masks(chosen.boxes, masks), index


class _Bytes:
    """A set of pixels of an image, a byte each."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._pixels = np.zeros(shape, bool)

    def within(self, box: list[int]) -> NDArray[np.bool_]:
        """Which pixels of a box (x0, y0, x1, y1) are in it."""
        x0, y0, x1, y1 = box
        return self._pixels[y0:y1, x0:x1]

    def add(self, box: list[int], pixels: NDArray[np.bool_]) -> None:
        """Take in some pixels of a box."""
        x0, y0, x1, y1 = box
        self._pixels[y0:y1, x0:x1] |= pixels


class _Bits:
    """The same, a bit each."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._bits = np.zeros((shape[0], -(-shape[1] // 8)), np.uint8)

    def within(self, box: list[int]) -> NDArray[np.bool_]:
        """Which pixels of a box (x0, y0, x1, y1) are in it."""
        bits, columns = self._part(box)
        return np.unpackbits(bits, axis=1)[:, columns].view(bool)

    def add(self, box: list[int], pixels: NDArray[np.bool_]) -> None:
        """Take in some pixels of a box."""
        bits, columns = self._part(box)
        wide = np.zeros((bits.shape[0], 8 * bits.shape[1]), bool)
        wide[:, columns] = pixels
        bits |= np.packbits(wide, axis=1)

    def _part(self, box: list[int]) -> tuple[NDArray[np.uint8], slice]:
        """The bytes that hold a box, and which of their bits are its columns."""
        x0, y0, x1, y1 = box
        first = x0 // 8
        return self._bits[y0:y1, first : -(-x1 // 8)], slice(x0 - 8 * first, x1 - 8 * first)
