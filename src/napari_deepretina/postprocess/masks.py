"""Masks from the network's grid to the image's pixels, each inside its own box."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CROSS = ndimage.generate_binary_structure(2, 1)


def place_masks(
    masks: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    shape: tuple[int, int],
    threshold: float,
) -> tuple[NDArray[np.int64], list[NDArray[np.bool_]]]:
    """Resample masks to the pixels their boxes touch, and cut them at a threshold.

    Interpolation is bilinear between the centres of the S × S cells, with the border cells
    continued to the edge of the box; a pixel is looked up at its centre.

    Parameters
    ----------
    masks : (N, S, S) uint8, probability times 255.
    boxes : (N, 4) float xyxy in pixels.
    shape : (height, width) of the image; masks are cut at its border.
    threshold : probability in 0…1; a pixel above it belongs to the object.

    Returns
    -------
    frames : (N, 4) int64 xyxy, x1 and y1 exclusive, at least one pixel unless outside the image.
    placed : N bool arrays of the frames' shapes.
    """
    height, width = shape
    frames = np.empty((len(boxes), 4), np.int64)
    frames[:, :2] = np.floor(boxes[:, :2])
    frames[:, 2:] = np.ceil(boxes[:, 2:])
    np.clip(frames, 0, (width, height, width, height), out=frames)
    cut = np.float32(threshold * 255)
    placed = []
    for mask, box, frame in zip(masks, boxes.tolist(), frames.tolist(), strict=True):
        rows = _weights(frame[1], frame[3], box[1], box[3], mask.shape[0])
        columns = _weights(frame[0], frame[2], box[0], box[2], mask.shape[1])
        placed.append(rows @ mask.astype(np.float32) @ columns.T > cut)
    return frames, placed


def _weights(start: int, stop: int, low: float, high: float, cells: int) -> NDArray[np.float32]:
    """(stop - start, cells) float32: how much each cell tells about each pixel; 0 outside the box."""
    centres = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
    place = (centres - low) * (cells / max(high - low, 1e-6)) - 0.5
    distance = np.abs(np.clip(place, 0, cells - 1)[:, None] - np.arange(cells, dtype=np.float32))
    weights: NDArray[np.float32] = np.maximum(0, 1 - distance).astype(np.float32)
    # A box side under a pixel may hold no pixel centre: its nearest pixel stays, so nothing vanishes.
    outside = (centres < low) | (centres > high)
    if not outside.all():
        weights[outside] = 0
    return weights


def dilate(
    frame: NDArray[np.int64], mask: NDArray[np.bool_], times: int, shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Grow one mask by the 3×3 cross, its frame with it, up to the image's border.

    Returns
    -------
    frame : (4,) int64 xyxy of the new mask.
    mask : bool.
    """
    if times == 0 or mask.size == 0:
        return frame, mask
    height, width = shape
    grown = np.clip(frame + (-times, -times, times, times), 0, (width, height, width, height))
    before, after = frame[:2] - grown[:2], grown[2:] - frame[2:]
    padded = np.pad(mask, ((before[1], after[1]), (before[0], after[0])))
    return grown, ndimage.binary_dilation(padded, CROSS, times)
