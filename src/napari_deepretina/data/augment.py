"""Random views of training images: one resampling for place, a few operations for colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from napari_deepretina.data.augmentation import Augmentation
from napari_deepretina.data.stains import coloured, is_stained, painted_brown, restained, turned_hues
from napari_deepretina.instances.labels import bounding_boxes


def random_crop(
    image: NDArray[np.float32],
    labels: NDArray[np.int32],
    size: int,
    base_scale: float,
    settings: Augmentation,
    rng: np.random.Generator,
) -> tuple[Tensor, NDArray[np.int32]]:
    """A random square view of an image and its labels, each resampled exactly once.

    Parameters
    ----------
    image : (H, W, 3) float32, normalised.
    labels : (H, W) int32, or (K, H, W) where objects overlap.
    size : side of the crop in pixels.
    base_scale : zoom used for this image at inference.

    Returns
    -------
    image : (3, size, size) float32 tensor, bilinear; 0 beyond the border.
    labels : (size, size) or (K, size, size) int32, nearest neighbour; 0 beyond the border. Copies of nuclei
        (`paste`, where none overlap) have the id of the copied one plus ``labels.max() + 1``.
    """
    shape = labels.shape[-2:]
    if settings.geometry == "deep-retina":
        view, seen = original_crop(image, labels, size, OriginalView.drawn(shape, size, settings, rng))
    else:
        matrix = _output_to_input(flat(labels), size, base_scale, settings, rng)
        view, seen = _sampled(image, labels, _sampling_grid(matrix, size, shape))
    if settings.paste and rng.random() < settings.paste and labels.ndim == 2:
        view, seen = _pasted(view, seen, int(labels.max()) + 1, rng)
    return _recoloured(view, flat(seen), settings, rng), seen


def flat(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """(H, W) of labels that may have several planes."""
    seen: NDArray[np.int32] = labels if labels.ndim == 2 else labels.max(axis=0)
    return seen


@dataclass(frozen=True)
class OriginalView:
    """What Deep Retina draws for the place of one crop.

    Attributes
    ----------
    scale : of height and width.
    corner : (y, x) of the crop in the scaled image, in pixels.
    left_right, up_down : whether it is mirrored so.
    quarters : turns by 90°, counter-clockwise.
    degrees : the small rotation, clockwise.
    """

    scale: tuple[float, float]
    corner: tuple[int, int]
    left_right: bool = False
    up_down: bool = False
    quarters: int = 0
    degrees: float = 0.0

    @classmethod
    def drawn(cls, shape: tuple[int, ...], size: int, s: Augmentation, rng: np.random.Generator) -> Self:
        """A random one of an image of this (H, W) for a crop of `size`."""
        least = size / min(shape)
        scale = np.full(2, rng.uniform(least, max(s.enlarge, least * s.zoom)))
        scale[rng.integers(2)] *= rng.uniform(1, s.aspect)
        room = np.maximum(0, np.round(np.array(shape) * scale).astype(int) - size)
        corner = rng.integers(0, room + 1) if s.corner == "random" else np.zeros(2, int)
        flips, quarters = (rng.random(2) < 0.5, rng.integers(4)) if s.flips else ((False, False), 0)
        if s.flips == "left-right":
            flips, quarters = (flips[0], False), 0
        turned = s.rotation and rng.random() < 0.5
        degrees = rng.uniform(-s.rotation, s.rotation) if turned else 0.0
        (height, width), (y, x) = scale.tolist(), corner.tolist()
        return cls((height, width), (y, x), bool(flips[0]), bool(flips[1]), int(quarters), degrees)

    def matrix(self, size: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Scale, stretch, crop, flips, quarter turns and small rotation in one.

        Returns
        -------
        matrix : as `_output_to_input`.
        shown : (size, size) bool, False where the small rotation turned the crop's outside in, which the
            original fills with zeros.
        """
        small = _rotation(-np.deg2rad(self.degrees))
        before = np.abs(_offsets(size)[..., :2] @ small.T)
        shown = np.asarray((before <= size / 2).all(axis=-1) | (self.degrees == 0))
        mirror = np.diag([-1.0 if self.left_right else 1.0, -1.0 if self.up_down else 1.0])
        stretch = np.array(self.scale[::-1])
        linear = np.diag(1 / stretch) @ mirror @ _rotation(self.quarters * np.pi / 2).round() @ small
        centre = (np.array(self.corner[::-1]) + size / 2) / stretch
        return np.concatenate([linear, centre[:, None]], axis=1), shown


def original_crop(
    image: NDArray[np.float32], labels: NDArray[np.int32], size: int, view: OriginalView
) -> tuple[Tensor, NDArray[np.int32]]:
    """What Deep Retina shows of an image for given draws; shapes and dtypes as `random_crop`."""
    matrix, shown = view.matrix(size)
    grid = _sampling_grid(matrix, size, labels.shape[-2:])
    grid[0][torch.from_numpy(~shown)] = 2.0  # beyond the border: reads as 0
    return _sampled(image, labels, grid)


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _output_to_input(
    labels: NDArray[np.int32], size: int, base: float, s: Augmentation, rng: np.random.Generator
) -> NDArray[np.float64]:
    """2×3 matrix from (x, y, 1) of the crop, measured from its centre, to (x, y) of the image."""
    zoom = base * np.exp(rng.uniform(*np.log(s.scale)))
    stretch = np.array([zoom, zoom])
    stretch[rng.integers(2)] *= rng.uniform(1, s.aspect)
    angle = np.deg2rad(rng.uniform(-s.rotation, s.rotation)) if rng.random() < 0.5 else 0.0
    linear = _rotation(angle)
    if s.flips == "left-right":
        linear = linear @ np.diag([rng.choice([-1.0, 1.0]), 1.0])
    elif s.flips:
        turn = _rotation(rng.integers(4) * np.pi / 2).round()
        linear = linear @ turn @ np.diag(rng.choice([-1.0, 1.0], 2))
    linear = np.diag(1 / stretch) @ linear
    extent = np.array(labels.shape[::-1], float)
    half = np.abs(linear).sum(axis=1) * size / 2
    centre = rng.uniform(0, 1, 2) * extent
    if rng.random() < s.centred:
        ys, xs = np.nonzero(labels[:: max(1, labels.shape[0] // 128), :: max(1, labels.shape[1] // 128)])
        if len(ys):
            pick = rng.integers(len(ys))
            steps = np.maximum(1, np.array(labels.shape[::-1]) // 128)
            jitter = rng.uniform(-0.5, 0.5, 2) * half
            centre = np.array([xs[pick], ys[pick]]) * steps + jitter
    # Stay inside where the image is larger than the view; look at all of it where it is not.
    low, high = np.minimum(half, extent / 2), np.maximum(extent - half, extent / 2)
    centre = np.clip(centre, low, high)
    return np.concatenate([linear, centre[:, None]], axis=1)


def _sampled(
    image: NDArray[np.float32], labels: NDArray[np.int32], grid: Tensor
) -> tuple[Tensor, NDArray[np.int32]]:
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    view = F.grid_sample(pixels, grid, mode="bilinear", align_corners=False)[0]
    # float64 holds every int32 id exactly
    ids = torch.from_numpy(labels.astype(np.float64)).reshape(1, -1, *labels.shape[-2:])
    turned = F.grid_sample(ids, grid.double(), mode="nearest", align_corners=False)[0]
    return view, turned.reshape(*labels.shape[:-2], *turned.shape[-2:]).numpy().astype(np.int32)


def _sampling_grid(matrix: NDArray[np.float64], size: int, shape: tuple[int, ...]) -> Tensor:
    """(1, size, size, 2) coordinates as `grid_sample` wants them."""
    places = _offsets(size) @ matrix.T
    extent = np.array(shape[::-1], float)
    return torch.from_numpy((2 * places / extent - 1).astype(np.float32))[None]


def _offsets(size: int) -> NDArray[np.float64]:
    """(size, size, 3) of (x, y, 1), measured from the crop's centre."""
    offsets = np.arange(size) + 0.5 - size / 2
    x, y = np.meshgrid(offsets, offsets)
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def _pasted(
    view: Tensor, labels: NDArray[np.int32], shift: int, rng: np.random.Generator
) -> tuple[Tensor, NDArray[np.int32]]:
    """Copy up to half of the nuclei, mirrored, to places where no other is; their ids rise by `shift`."""
    ids, boxes = bounding_boxes(labels)
    view, labels = view.clone(), labels.copy()
    for k in rng.permutation(len(ids))[: len(ids) // 2 + 1]:
        x0, y0, x1, y1 = boxes[k].tolist()
        height, width = y1 - y0, x1 - x0
        mask = labels[y0:y1, x0:x1] == ids[k]
        flip = tuple(axis for axis in (0, 1) if rng.random() < 0.5)
        y, x = rng.integers(0, np.array(labels.shape) - (height, width) + 1).tolist()
        there = labels[y : y + height, x : x + width]
        moved = np.flip(mask, flip)
        if there[moved].any():
            continue
        pixels = torch.flip(view[:, y0:y1, x0:x1], [axis + 1 for axis in flip])
        target = view[:, y : y + height, x : x + width]
        target.copy_(torch.where(torch.from_numpy(moved.copy()), pixels, target))
        there[moved] = ids[k] + shift
    return view, labels


def _recoloured(view: Tensor, seen: NDArray[np.int32], s: Augmentation, rng: np.random.Generator) -> Tensor:
    if s.brown and is_stained(view) and rng.random() < s.brown:
        view = painted_brown(view, seen, rng)
    if s.stain and coloured(view):
        view = restained(view, s.stain, rng)
    if s.hue and coloured(view) and rng.random() < 0.5:
        view = turned_hues(view, float(np.deg2rad(rng.uniform(-s.hue, s.hue))))
    if s.channel_shift:
        shifts = rng.uniform(-s.channel_shift, s.channel_shift, 3) / 255
        low, high = float(view.min()), float(view.max())
        view = (view + torch.from_numpy(shifts.astype(np.float32))[:, None, None]).clamp(low, high)
    if rng.random() < s.grey:
        view = view.mean(dim=0, keepdim=True).expand(3, -1, -1)
    if rng.random() < s.invert:
        view = 1 - view
    if s.gamma > 1:
        power = float(np.exp(rng.uniform(-np.log(s.gamma), np.log(s.gamma))))
        view = view.clamp(0, 1.5).pow(power)
    gain = 1 + rng.uniform(-s.contrast, s.contrast)
    shift = rng.uniform(-s.brightness, s.brightness) + rng.uniform(-s.colour, s.colour, 3) * coloured(view)
    view = view * gain + torch.from_numpy(np.asarray(shift, np.float32))[:, None, None]
    if s.blur and rng.random() < 0.25:
        sigma = rng.uniform(0, s.blur)
        view = torch.from_numpy(ndimage.gaussian_filter(view.numpy(), (0, sigma, sigma), truncate=3))
    if s.noise and rng.random() < 0.5:
        size = view.shape if coloured(view) else view.shape[1:]
        noise = rng.standard_normal(size, np.float32) * rng.uniform(0, s.noise)
        view = view + torch.from_numpy(np.asarray(noise, np.float32))
    return view.clamp(-0.5, 1.5).contiguous()
