"""Random views of training images: one resampling for place, a few operations for colour."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage
from torch import Tensor


class Augmentation(BaseModel):
    """Ranges that a random crop is drawn from; zero or one switches an operation off."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    scale: tuple[float, float] = (0.6, 1.6)
    """Zoom on top of the scale used at inference, drawn log-uniformly."""
    aspect: float = Field(default=1.2, ge=1)
    """One axis, at even odds, is stretched by up to this."""
    rotation: float = Field(default=15, ge=0, le=180)
    """Half the crops are turned by up to this many degrees, either way."""
    flips: bool = True
    """Mirror images and quarter turns."""
    gamma: float = Field(default=1.5, ge=1)
    brightness: float = Field(default=0.1, ge=0)
    contrast: float = Field(default=0.2, ge=0, lt=1)
    colour: float = Field(default=0.1, ge=0)
    """Shift of each channel."""
    grey: float = Field(default=0.1, ge=0, le=1)
    """Probability that a colour image becomes grey."""
    invert: float = Field(default=0.05, ge=0, le=1)
    """Probability that dark and bright change places."""
    noise: float = Field(default=0.04, ge=0)
    """Largest standard deviation of added Gaussian noise."""
    blur: float = Field(default=1.0, ge=0)
    """Largest sigma, in pixels; a quarter of the crops is blurred."""
    centred: float = Field(default=0.7, ge=0, le=1)
    """Probability that a crop is laid around a nucleus instead of anywhere."""


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
    labels : (H, W) int32.
    size : side of the crop in pixels.
    base_scale : zoom used for this image at inference.

    Returns
    -------
    image : (3, size, size) float32 tensor, bilinear; 0 beyond the border.
    labels : (size, size) int32, nearest neighbour; 0 beyond the border.
    """
    matrix = _output_to_input(labels, size, base_scale, settings, rng)
    grid = _sampling_grid(matrix, size, labels.shape)
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    view = F.grid_sample(pixels, grid, mode="bilinear", align_corners=False)[0]
    # float64 holds every int32 id exactly
    ids = torch.from_numpy(labels.astype(np.float64))[None, None]
    turned = F.grid_sample(ids, grid.double(), mode="nearest", align_corners=False)[0, 0]
    return _recoloured(view, settings, rng), turned.numpy().astype(np.int32)


def _output_to_input(
    labels: NDArray[np.int32], size: int, base: float, s: Augmentation, rng: np.random.Generator
) -> NDArray[np.float64]:
    """2×3 matrix from (x, y, 1) of the crop, measured from its centre, to (x, y) of the image."""
    zoom = base * np.exp(rng.uniform(*np.log(s.scale)))
    stretch = np.array([zoom, zoom])
    stretch[rng.integers(2)] *= rng.uniform(1, s.aspect)
    angle = np.deg2rad(rng.uniform(-s.rotation, s.rotation)) if rng.random() < 0.5 else 0.0
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if s.flips:
        angle = rng.integers(4) * np.pi / 2
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).round()
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


def _sampling_grid(matrix: NDArray[np.float64], size: int, shape: tuple[int, ...]) -> Tensor:
    """(1, size, size, 2) coordinates as `grid_sample` wants them."""
    offsets = np.arange(size) + 0.5 - size / 2
    x, y = np.meshgrid(offsets, offsets)
    places = np.stack([x, y, np.ones_like(x)], axis=-1) @ matrix.T
    extent = np.array(shape[::-1], float)
    return torch.from_numpy((2 * places / extent - 1).astype(np.float32))[None]


def _recoloured(view: Tensor, s: Augmentation, rng: np.random.Generator) -> Tensor:
    if rng.random() < s.grey:
        view = view.mean(dim=0, keepdim=True).expand(3, -1, -1)
    if rng.random() < s.invert:
        view = 1 - view
    if s.gamma > 1:
        power = float(np.exp(rng.uniform(-np.log(s.gamma), np.log(s.gamma))))
        view = view.clamp(0, 1.5).pow(power)
    gain = 1 + rng.uniform(-s.contrast, s.contrast)
    shift = rng.uniform(-s.brightness, s.brightness) + rng.uniform(-s.colour, s.colour, 3) * _coloured(view)
    view = view * gain + torch.from_numpy(np.asarray(shift, np.float32))[:, None, None]
    if s.blur and rng.random() < 0.25:
        sigma = rng.uniform(0, s.blur)
        view = torch.from_numpy(ndimage.gaussian_filter(view.numpy(), (0, sigma, sigma), truncate=3))
    if s.noise and rng.random() < 0.5:
        size = view.shape if _coloured(view) else view.shape[1:]
        noise = rng.standard_normal(size, np.float32) * rng.uniform(0, s.noise)
        view = view + torch.from_numpy(np.asarray(noise, np.float32))
    return view.clamp(-0.5, 1.5).contiguous()


def _coloured(view: Tensor) -> float:
    """1 if the channels differ, else 0: grey images stay grey."""
    return float(bool((view[0] != view[1]).any()))
