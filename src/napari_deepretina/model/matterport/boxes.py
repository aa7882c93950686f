"""Boxes as Matterport counts them: (y1, x1, y2, x2), normalised by height - 1 and width - 1, float32.

In pixels y2 and x2 lie outside the box, in normalised form inside: hence the shift by one.
All operations keep the order of the original's, so that float32 gives the same values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STRIDES = (4, 8, 16, 32, 64)
STD = (0.1, 0.1, 0.2, 0.2)
"""What box deltas are multiplied by when they are applied."""


def pyramid_anchors(
    shape: tuple[int, int], sizes: Sequence[float], ratios: Sequence[float]
) -> NDArray[np.float64]:
    """(A, 4) anchors in pixels: level by level, then row, column and ratio.

    The centre of a cell is its index times its stride. Anchors may reach beyond the image.

    Parameters
    ----------
    shape : (height, width) of the network's input, multiples of 64.
    sizes : side on each level.
    ratios : width to height.
    """
    levels = []
    root = np.sqrt(np.array(ratios, float))
    for size, stride in zip(sizes, STRIDES, strict=True):
        rows, columns = (np.arange(-(-n // stride)) * float(stride) for n in shape)
        centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)[:, :, None]
        sides = np.stack([size / root, size * root], axis=-1)[None, None]
        corners = np.concatenate([centres - 0.5 * sides, centres + 0.5 * sides], axis=-1)
        levels.append(corners.reshape(-1, 4))
    return np.concatenate(levels)


def normalised(boxes: NDArray[np.generic], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes in pixels of an image of (height, width) → normalised."""
    height, width = shape
    scale = np.array([height - 1, width - 1, height - 1, width - 1])
    return np.asarray(np.divide(boxes - np.array([0, 0, 1, 1]), scale), np.float32)


def in_pixels(boxes: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Normalised boxes → whole pixels of an image of (height, width)."""
    height, width = shape
    scale = np.array([height - 1, width - 1, height - 1, width - 1])
    return np.asarray(np.around(np.multiply(boxes, scale) + np.array([0, 0, 1, 1])), np.int32)


def apply_deltas(boxes: Tensor, deltas: Tensor) -> Tensor:
    """(N, 4) boxes moved and stretched by (N, 4) deltas (dy, dx, log dh, log dw)."""
    y1, x1, y2, x2 = boxes.unbind(1)
    dy, dx, dh, dw = deltas.unbind(1)
    height, width = y2 - y1, x2 - x1
    centre_y = y1 + 0.5 * height + dy * height
    centre_x = x1 + 0.5 * width + dx * width
    height, width = height * torch.exp(dh), width * torch.exp(dw)
    top, left = centre_y - 0.5 * height, centre_x - 0.5 * width
    return torch.stack([top, left, top + height, left + width], dim=1)


def deltas_between(boxes: Tensor, truth: Tensor) -> Tensor:
    """(N, 4) deltas that turn boxes into true boxes, before the division by `STD`."""
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    true_height, true_width = truth[:, 2] - truth[:, 0], truth[:, 3] - truth[:, 1]
    dy = (truth[:, 0] + 0.5 * true_height - (boxes[:, 0] + 0.5 * height)) / height
    dx = (truth[:, 1] + 0.5 * true_width - (boxes[:, 1] + 0.5 * width)) / width
    return torch.stack([dy, dx, torch.log(true_height / height), torch.log(true_width / width)], dim=1)


def clipped(boxes: Tensor, window: Tensor) -> Tensor:
    """Boxes cut at a window (4,), which may leave them without height or width."""
    low, high = window[[0, 1, 0, 1]], window[[2, 3, 2, 3]]
    return torch.maximum(torch.minimum(boxes, high), low)


def standard_deviations(like: Tensor) -> Tensor:
    """`STD` beside a tensor."""
    return like.new_tensor(STD)


def levels_of(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """(N,) pyramid level 2…5 that the features of normalised boxes are taken from."""
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = torch.tensor(float(shape[0] * shape[1]), device=boxes.device)
    level = (
        torch.log(torch.sqrt(height * width) / (224.0 / torch.sqrt(area))) / np.float32(np.log(2.0)).item()
    )
    return (4 + torch.nan_to_num(level.round(), nan=-9, neginf=-9, posinf=9)).clamp(2, 5).long()


def crop_and_resize(features: Tensor, boxes: Tensor, size: int) -> Tensor:
    """One bilinear sample a cell, corners on the boxes' corners, 0 outside, as TensorFlow takes them.

    Parameters
    ----------
    features : (C, H, W) float32.
    boxes : (N, 4) normalised.
    size : cells a side.

    Returns
    -------
    (N, C, size, size) float32, in channels-last memory.
    """
    channels, height, width = features.shape
    rows, row_low, row_high, row_in = _samples(boxes[:, 0], boxes[:, 2], height, size)
    columns, column_low, column_high, column_in = _samples(boxes[:, 1], boxes[:, 3], width, size)
    flat = features.permute(1, 2, 0).reshape(height * width, channels)

    def at(row: Tensor, column: Tensor) -> Tensor:
        index = row[:, :, None] * width + column[:, None, :]
        return flat[index.reshape(-1)].view(*index.shape, channels)

    across = columns[:, None, :, None]
    top = at(row_low, column_low)
    top = top + (at(row_low, column_high) - top) * across
    bottom = at(row_high, column_low)
    bottom = bottom + (at(row_high, column_high) - bottom) * across
    values = top + (bottom - top) * rows[:, :, None, None]
    inside = row_in[:, :, None, None] & column_in[:, None, :, None]
    return torch.where(inside, values, torch.zeros((), device=values.device)).permute(0, 3, 1, 2)


def _samples(low: Tensor, high: Tensor, extent: int, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(N, size) along one axis: share of the upper neighbour, both neighbours, whether it lies inside."""
    step = (high - low) * float(extent - 1) / float(size - 1)
    place = low[:, None] * float(extent - 1) + torch.arange(size, device=low.device) * step[:, None]
    inside = (place >= 0) & (place <= extent - 1)
    place = place.clamp(0, extent - 1)
    below = place.floor()
    return place - below, below.long(), place.ceil().long(), inside


def pooled(features: Sequence[Tensor], boxes: Tensor, shape: tuple[int, int], size: int) -> Tensor:
    """Features of regions of one image, each from its level.

    Parameters
    ----------
    features : P2…P5 of the image, (C, H, W) each.
    boxes : (N, 4) normalised.
    shape : (height, width) of the network's input.
    size : cells a side.

    Returns
    -------
    (N, C, size, size) float32.
    """
    level = levels_of(boxes, shape)
    parts, places = [], []
    for number, one in enumerate(features, start=2):
        here = torch.nonzero(level == number).flatten()
        parts.append(crop_and_resize(one, boxes[here], size))
        places.append(here)
    order = torch.argsort(torch.cat(places))
    return torch.cat(parts)[order]
