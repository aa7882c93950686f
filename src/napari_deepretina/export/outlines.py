"""Outlines of masks, for formats that know polygons only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Outer outlines of a mask's pieces, the longest first; holes are left out.

    Returns
    -------
    list of (K, 2) float (x, y) corners, half-way between pixels inside and outside; the mask's upper left
    corner is (0, 0), pixel centres lie at + 0.5.
    """
    from skimage.measure import find_contours

    rings = [ring[:-1, ::-1] - 0.5 for ring in find_contours(np.pad(mask, 1).astype(float), 0.5)]
    outer = [ring for ring in rings if _signed_area(ring) > 0]
    return sorted(outer, key=len, reverse=True)


def _signed_area(ring: NDArray[np.float64]) -> float:
    """Twice the area; its sign tells which side the inside is on, and so holes from outer rings."""
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
