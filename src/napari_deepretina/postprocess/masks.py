"""Masks from the network's grid to the image's pixels, each inside its own box, many at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_FLOATS_AT_ONCE = 2_000_000
_THREADS = min(4, os.cpu_count() or 1)


def frames_of(boxes: NDArray[np.float32], shape: tuple[int, int], margin: int = 0) -> NDArray[np.int64]:
    """(N, 4) int64 xyxy of the pixels that boxes touch, grown by a margin, cut at the image's border."""
    frames = np.empty((len(boxes), 4), np.int64)
    frames[:, :2] = np.floor(boxes[:, :2]) - margin
    frames[:, 2:] = np.ceil(boxes[:, 2:]) + margin
    height, width = shape
    return np.clip(frames, 0, (width, height, width, height), out=frames)


def place_masks(
    masks: NDArray[np.uint8 | np.float32],
    boxes: NDArray[np.float32],
    shape: tuple[int, int],
    threshold: float,
    *,
    dilation: int = 0,
    fading: bool = False,
) -> tuple[NDArray[np.int64], list[NDArray[np.bool_]]]:
    """Resample masks to the pixels their boxes touch, cut them at a threshold, dilate or erode them.

    Parameters
    ----------
    masks : (N, S, S) uint8 or float32, probability times 255.
    boxes : (N, 4) float xyxy in pixels.
    shape : (height, width) of the image; masks are cut at its border.
    threshold : probability in 0…1; a pixel above it (with `fading` also one that just reaches it, as in the
        original) belongs to the object.
    fading : see `sample_masks`.
    dilation : see `grow`; frames grow with the masks.

    Returns
    -------
    frames : (N, 4) int64 xyxy, x1 and y1 exclusive, at least one pixel unless outside the image.
    placed : N bool arrays of the frames' shapes.
    """
    frames = frames_of(boxes, shape, max(0, dilation))
    placed: list[NDArray[np.bool_]] = [np.zeros((0, 0), bool)] * len(boxes)
    limit = np.float32(threshold * 255)
    for some, values in sample_masks(masks, boxes, frames, fading=fading):
        cut = _within(frames[some], values.shape[1]) & (values >= limit) if fading else values > limit
        for i, mask in zip(some.tolist(), unbatched(cut, frames[some], dilation, shape), strict=True):
            placed[i] = mask
    return frames, placed


def unbatched(
    cut: NDArray[np.bool_], frames: NDArray[np.int64], dilation: int, shape: tuple[int, int]
) -> list[NDArray[np.bool_]]:
    """Dilate or erode a batch of masks (see `grow`) and give each in the shape of its frame."""
    if dilation > 0:  # what lies beyond the image must not grow back into it
        cut = cut & _within(frames, cut.shape[1])
    cut = grow(cut, frames, dilation, shape)
    return [cut[k, : y1 - y0, : x1 - x0] for k, (x0, y0, x1, y1) in enumerate(frames.tolist())]


def _within(frames: NDArray[np.int64], side: int) -> NDArray[np.bool_]:
    """(n, side, side) bool: the part of each batch entry that its frame fills."""
    steps = np.arange(side)
    sizes = frames[:, 2:] - frames[:, :2]
    inside: NDArray[np.bool_] = (steps < sizes[:, 1:])[:, :, None] & (steps < sizes[:, :1])[:, None, :]
    return inside


def sample_masks(
    masks: NDArray[np.uint8 | np.float32],
    boxes: NDArray[np.float32],
    frames: NDArray[np.int64],
    *,
    fading: bool = False,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Mask values at the pixels of frames, in batches of frames of about the same size.

    Interpolation is bilinear between the centres of the S × S cells, with the border cells continued to
    the edge of the box; a pixel is looked up at its centre, and is 0 outside the box.

    Parameters
    ----------
    frames : (N, 4) int64 xyxy, the pixels wanted for each mask.
    fading : instead of continuing the border cells, let them fade to 0 over half a cell, but not below the
        mask's own lowest value: the resize of the original.

    Yields
    ------
    some : (n,) positions in the input.
    values : (n, side, side) float32, 0…255; frame k fills the top left corner of values[k].
    """
    sides = np.maximum(frames[:, 2:] - frames[:, :2], 1).max(axis=1, initial=1)
    steps = np.where(sides <= 64, 8, 32)
    sides = -(-sides // steps) * steps
    batches: list[tuple[int, NDArray[np.int64]]] = []
    for side in np.unique(sides).tolist():
        members = np.flatnonzero(sides == side)
        at_once = max(1, _FLOATS_AT_ONCE // side**2)
        batches += [(side, members[i : i + at_once]) for i in range(0, len(members), at_once)]

    def work(batch: tuple[int, NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        side, some = batch
        return some, _sampled(masks[some], boxes[some], frames[some], side, fading=fading)

    if len(batches) == 1:
        yield work(batches[0])
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(batches), _THREADS):  # so few at a time bounds memory
            yield from pool.map(work, batches[start : start + _THREADS])


def _sampled(
    masks: NDArray[np.uint8 | np.float32],
    boxes: NDArray[np.float32],
    frames: NDArray[np.int64],
    side: int,
    *,
    fading: bool,
) -> NDArray[np.float32]:
    rows = _weights(frames[:, 1], boxes[:, 1], boxes[:, 3], side, masks.shape[1], fading=fading)
    columns = _weights(frames[:, 0], boxes[:, 0], boxes[:, 2], side, masks.shape[2], fading=fading)
    known = masks.astype(np.float32)
    values = np.asarray(rows @ known @ columns.transpose(0, 2, 1), np.float32)
    if fading:
        np.maximum(values, known.min(axis=(1, 2), initial=255)[:, None, None], out=values)
        inside = (rows.sum(2) > 0)[:, :, None] & (columns.sum(2) > 0)[:, None, :]
        values[~inside] = 0
    return values


def _weights(
    start: NDArray[np.int64],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    side: int,
    cells: int,
    *,
    fading: bool = False,
) -> NDArray[np.float32]:
    """(n, side, cells) float32: how much each cell tells about each pixel; 0 outside the box."""
    centres = start[:, None].astype(np.float32) + np.arange(side, dtype=np.float32) + np.float32(0.5)
    low, high = low[:, None].astype(np.float32), high[:, None].astype(np.float32)
    place = (centres - low) * (cells / np.maximum(high - low, np.float32(1e-6))) - np.float32(0.5)
    strength = np.clip(np.minimum(1 + place, cells - place), 0, 1) if fading else np.ones_like(place)
    place = np.clip(place, 0, cells - 1).astype(np.float32)
    outside = (centres < low) | (centres > high)
    # A box side under a pixel may hold no pixel centre: the pixels it touches stay, so nothing vanishes.
    thin = np.ceil(low - np.float32(0.5)) + np.float32(0.5) > high
    outside = np.where(thin, (centres < np.floor(low)) | (centres > np.ceil(high)), outside)
    below = place.astype(np.intp)
    share = place - below
    weights = np.zeros((*place.shape, cells), np.float32)
    # Two of the cells tell about a pixel; beyond the last one there is none to share with.
    last = np.minimum(below + 1, cells - 1)[..., None]
    np.put_along_axis(weights, last, np.where(outside, 0, share * strength)[..., None], axis=2)
    np.put_along_axis(
        weights, below[..., None], np.where(outside, 0, (1 - share) * strength)[..., None], axis=2
    )
    return weights


def grow(
    masks: NDArray[np.bool_], frames: NDArray[np.int64], times: int, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Dilate (times > 0) or erode (times < 0) a batch of masks by the 3×3 cross.

    The image's border does not erode. Pixels beyond the frames may come out as anything.

    Parameters
    ----------
    masks : (n, side, side) bool, frame k in the top left corner of masks[k].
    frames : (n, 4) int64 xyxy; to dilate, they must have the margin already.
    """
    if times == 0 or not len(masks):
        return masks
    if times > 0:
        for _ in range(times):
            masks = _with_neighbours(masks, np.logical_or)
        return masks
    height, width = shape
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    border = np.zeros_like(padded)
    for k, (x0, y0, x1, y1) in enumerate(frames.tolist()):
        border[k, 0] |= y0 == 0
        border[k, :, 0] |= x0 == 0
        border[k, y1 - y0 + 1 :] |= y1 == height
        border[k, :, x1 - x0 + 1 :] |= x1 == width
    padded |= border
    for _ in range(-times):
        padded = _with_neighbours(padded, np.logical_and) | border
    return padded[:, 1:-1, 1:-1]


def _with_neighbours(masks: NDArray[np.bool_], combine: np.ufunc) -> NDArray[np.bool_]:
    """Each pixel combined with the four beside it, where there are any."""
    out = masks.copy()
    for axis in (1, 2):
        ahead: list[slice] = [slice(None)] * 3
        behind = list(ahead)
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        combine(out[tuple(ahead)], masks[tuple(behind)], out=out[tuple(ahead)])
        combine(out[tuple(behind)], masks[tuple(ahead)], out=out[tuple(behind)])
    return out


def without_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with its holes filled; the same array if it has none."""
    # Euler's number of a single piece without holes is 1: then the slow way is not needed.
    edges = np.count_nonzero(mask[1:] & mask[:-1]) + np.count_nonzero(mask[:, 1:] & mask[:, :-1])
    blocks = np.count_nonzero(mask[1:, 1:] & mask[1:, :-1] & mask[:-1, 1:] & mask[:-1, :-1])
    if np.count_nonzero(mask) - edges + blocks == 1 and ndimage.label(mask)[1] == 1:
        return mask
    return np.asarray(ndimage.binary_fill_holes(mask))
