"""From any image to what the network was trained on: RGB, about 0…1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.errors import UserError

LOW, HIGH = 1.0, 99.8
"""Percentiles that become 0 and 1: nuclei may cover little of an image, glare even less."""
_SAMPLED = 4_000_000


def intensity_range(image: Any) -> tuple[float, float]:
    """The values that become 0 and 1: percentiles over all finite pixels and channels together.

    Very large images, which need not be arrays of numpy, are read on a regular grid of about four million
    values (`overview`).

    Returns
    -------
    low, high : float; (0, 0) if no pixel is finite.
    """
    values = overview(image).ravel()
    if np.issubdtype(values.dtype, np.floating):
        values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 0.0
    low, high = np.percentile(values.astype(np.float32, copy=False), (LOW, HIGH))
    return float(low), float(high)


def overview(image: Any) -> NDArray[Any]:
    """The image itself, or of a very large one every so-many-th pixel: about four million values."""
    step = max(1, int(np.sqrt(int(np.prod(image.shape)) / _SAMPLED)))
    return np.asarray(image[::step, ::step])


def normalise(image: NDArray[Any], limits: tuple[float, float] | None = None) -> NDArray[np.float32]:
    """Map an image to (H, W, 3) float32 with its intensity range at 0…1, clipped to -0.5…1.5.

    Parameters
    ----------
    image : (H, W) grey, or (H, W, C) with C 1, 3 or 4 (alpha is dropped); any real dtype or bool.
    limits : the values that become 0 and 1; by default `intensity_range` of the image.

    Returns
    -------
    (H, W, 3) float32. A constant image becomes zeros; NaN and infinite pixels become 0.
    """
    image = as_rgb(image)
    low, high = intensity_range(image) if limits is None else limits
    if not high > low:
        return np.zeros((*image.shape[:2], 3), np.float32)
    scaled = (image.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    scaled = np.nan_to_num(scaled, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    np.clip(scaled, -0.5, 1.5, out=scaled)
    return scaled if scaled.shape[2] == 3 else np.repeat(scaled, 3, axis=2)


def eight_bit(image: NDArray[Any], limits: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB: 8-bit images as they are, others with `normalise`'s range at 0…255."""
    if image.dtype == np.uint8:
        rgb = as_rgb(image)
        return rgb if rgb.shape[2] == 3 else np.repeat(rgb, 3, axis=2)
    return np.round(normalise(image, limits).clip(0, 1) * 255).astype(np.uint8)


def as_rgb(image: NDArray[Any]) -> NDArray[Any]:
    """View as (H, W, 1) or (H, W, 3), or say why that cannot be.

    Raises
    ------
    UserError
        If the image is empty, complex, or has axes or channels that do not fit.
    """
    check_image(image)
    if image.ndim == 2:
        return image[..., None]
    return image[..., :3] if image.shape[2] == 4 else image


def check_image(image: Any) -> tuple[int, int]:
    """(height, width) of anything with shape and dtype that can be segmented; see `as_rgb` for errors."""
    if image.dtype.kind not in "biuf":
        raise UserError(f"images of dtype {image.dtype} cannot be segmented; use a real number type")
    if image.ndim not in (2, 3):
        raise UserError(f"an image has (y, x) or (y, x, channel) axes, this one shape {image.shape}")
    if 0 in image.shape:
        raise UserError(f"the image is empty: its shape is {image.shape}")
    if image.ndim == 3 and image.shape[2] not in (1, 3, 4):
        raise UserError(f"the image has {image.shape[2]} channels; choose one of them")
    return int(image.shape[0]), int(image.shape[1])
