"""Outlines of masks, for formats that know polygons only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]


def outlines(mask: NDArray[np.bool_]) -> list[Ring]:
    """Outer outlines of a mask's pieces, the largest by area first; holes are left out.

    Returns
    -------
    list of (K, 2) float (x, y) corners, half-way between pixels inside and outside; the mask's upper left
    corner is (0, 0), pixel centres lie at + 0.5.
    """
    return rings(mask, holes=False)


def rings(mask: NDArray[np.bool_], *, holes: bool) -> list[Ring]:
    """The outer outlines of a mask, or those of its holes, in the coordinates of `outlines`."""
    from skimage.measure import find_contours

    found = [ring[:-1, ::-1] - 0.5 for ring in find_contours(np.pad(mask, 1).astype(float), 0.5)]
    areas = [_signed_area(ring) for ring in found]
    chosen = [k for k, area in enumerate(areas) if (area > 0) != holes]
    return [found[k] for k in sorted(chosen, key=lambda k: -abs(areas[k]))]


def _signed_area(ring: Ring) -> float:
    """Twice the area; its sign tells which side the inside is on, and so holes from outer rings."""
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
