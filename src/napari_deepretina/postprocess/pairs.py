"""Which boxes overlap: found by sweeping, so that only near ones are ever compared."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Pairs:
    """Overlapping pairs of boxes.

    Attributes
    ----------
    first, second : (K,) int64, positions of the two boxes, first < second.
    iou : (K,) float64.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    iou: NDArray[np.float64]

    def above(self, iou_threshold: float) -> Pairs:
        """The pairs whose IoU is strictly above a threshold."""
        keep = self.iou > iou_threshold
        return Pairs(self.first[keep], self.second[keep], self.iou[keep])


def overlapping_pairs(boxes: NDArray[np.float32], groups: NDArray[np.int32] | None = None) -> Pairs:
    """All pairs of boxes that share area.

    Parameters
    ----------
    boxes : (N, 4) xyxy. A box without area overlaps nothing.
    groups : (N,) int; given, only boxes of the same group are paired.

    Notes
    -----
    Boxes are swept from left to right; time and memory grow with the pairs that overlap in x.
    """
    x0, y0, x1, y1 = np.ascontiguousarray(boxes.astype(np.float64).T)
    area = np.maximum(x1 - x0, 0) * np.maximum(y1 - y0, 0)
    # Groups are laid side by side, so that one sweep keeps them apart.
    span = float(np.ptp(boxes[:, ::2])) + 1 if len(boxes) else 0.0
    shift = span * groups if groups is not None else 0.0
    left, right = x0 + shift, x1 + shift
    order = np.argsort(left, kind="stable")
    ends = np.searchsorted(left[order], right[order], side="left")
    counts = np.maximum(ends - np.arange(len(order)) - 1, 0)
    parts = [_sweep(order, counts, part, (x0, y0, x1, y1), area) for part in _portions(counts)]
    first, second, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Pairs(np.minimum(first, second), np.maximum(first, second), iou)


def _portions(counts: NDArray[np.int64]) -> list[slice]:
    """Stretches of boxes with about _AT_ONCE candidates each; at least one stretch."""
    total = np.cumsum(counts)
    cuts = [0]
    while cuts[-1] < len(counts):
        done = total[cuts[-1] - 1] if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(total, done + _AT_ONCE, side="right"))))
    return [slice(a, b) for a, b in itertools.pairwise(cuts)] or [slice(0, 0)]


def _sweep(
    order: NDArray[np.int64],
    counts: NDArray[np.int64],
    part: slice,
    corners: tuple[NDArray[np.float64], ...],
    area: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of the boxes at sorted places `part` with those up to `counts` places further on."""
    x0, y0, x1, y1 = corners
    here = counts[part]
    places = np.repeat(np.arange(part.start, part.stop), here)
    starts = np.repeat(np.cumsum(here) - here, here)
    i, j = order[places], order[places + 1 + np.arange(len(places)) - starts]
    tall = np.minimum(y1[i], y1[j]) - np.maximum(y0[i], y0[j])
    near = tall > 0
    i, j, tall = i[near], j[near], tall[near]
    shared = np.maximum(np.minimum(x1[i], x1[j]) - np.maximum(x0[i], x0[j]), 0) * tall
    met = shared > 0
    i, j, shared = i[met], j[met], shared[met]
    return i, j, shared / (area[i] + area[j] - shared)


def close_pairs(boxes: NDArray[np.float32], min_iou: float) -> Pairs:
    """All pairs of boxes with at least a given IoU above 0.

    Much quicker than `overlapping_pairs` where many boxes lie on each other, as those of several views
    do: boxes of that IoU have centres so near, and sides so alike, that a tree finds them.
    """
    corners = boxes.astype(np.float64)
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    size = np.maximum(corners[:, 2:] - corners[:, :2], 1e-6).max(axis=1, initial=1e-6)
    octave = np.floor(np.log2(size)).astype(np.int64)
    reach = int(np.ceil(-np.log2(min_iou)))
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for level in np.unique(octave).tolist():
        large = np.flatnonzero(octave == level)
        others = np.flatnonzero((octave <= level) & (octave >= level - reach))
        # IoU t leaves at most (1 - t) of the larger side between the centres, on either axis
        radius = (1 - min_iou) * float(size[large].max())
        if len(others) == len(large):
            i, j = _tree(centres[large]).query_pairs(radius, p=np.inf, output_type="ndarray").T
            found.append((large[i], large[j]))
            continue
        met = _tree(centres[large]).sparse_distance_matrix(
            _tree(centres[others]), radius, p=np.inf, output_type="ndarray"
        )
        i, j = large[met["i"]], others[met["j"]]
        once = (octave[i] > octave[j]) | (i < j)
        found.append((i[once], j[once]))
    i, j = (np.concatenate(column) for column in zip(*found, strict=True))
    iou = _iou(corners[i], corners[j])
    keep = iou >= min_iou
    i, j = i[keep], j[keep]
    return Pairs(np.minimum(i, j), np.maximum(i, j), iou[keep])


def _tree(points: NDArray[np.float64]) -> cKDTree:
    from scipy.spatial import cKDTree  # takes a while to import, and a dock opens without it

    return cKDTree(points, leafsize=24, balanced_tree=False, compact_nodes=False)


def _iou(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of boxes row by row; 0 where there is no area."""
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    shared = np.maximum(sides, 0).prod(axis=1)
    areas = [np.maximum(b[:, 2:] - b[:, :2], 0).prod(axis=1) for b in (one, other)]
    iou: NDArray[np.float64] = shared / np.maximum(areas[0] + areas[1] - shared, 1e-12)
    return iou


def nearest_of(
    boxes: NDArray[np.float32], others: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Highest IoU (N,) of each of (N, 4) boxes with one of (M, 4) others, 0 for none, and with which."""
    iou, place = np.zeros(len(boxes)), np.zeros(len(boxes), np.int64)
    if not len(others):
        return iou, place
    other = others[None].astype(float)
    area = (other[..., 2:] - other[..., :2]).prod(axis=-1)
    at_once = max(1, _AT_ONCE // (4 * len(others)))
    for start in range(0, len(boxes), at_once):
        part = slice(start, start + at_once)
        one = boxes[part, None].astype(float)
        sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
        shared = np.clip(sides, 0, None).prod(axis=-1)
        own = (one[..., 2:] - one[..., :2]).prod(axis=-1)
        each = shared / np.maximum(own + area - shared, 1e-9)
        iou[part], place[part] = each.max(axis=1), each.argmax(axis=1)
    return iou, place


def highest_iou(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) highest IoU of each of (N, 4) boxes with one of (M, 4) others; 0 where there are none."""
    return nearest_of(boxes, others)[0]
