"""From any image to what the network was trained on: RGB, about 0…1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.channels import as_channels
from napari_deepretina.data.reading import Reading, readings


def intensity_range(image: Any) -> tuple[float, float]:
    """The values that become 0 and 1 where nobody chooses otherwise; see `readings`.

    Returns
    -------
    low, high : float; (0, 0) if no pixel is finite.
    """
    return readings(image)[0].limits


def normalise(image: NDArray[Any], reading: Reading | None = None) -> NDArray[np.float32]:
    """Map an image to (H, W, 3) float32 with its intensity range at 0…1, clipped to -0.5…1.5.

    Parameters
    ----------
    image : (H, W) grey, or (H, W, C) with up to four channels (alpha is dropped); any real dtype or bool.
    reading : how its values are mapped; by default the first that `readings` offers.

    Returns
    -------
    (H, W, 3) float32. A constant image becomes zeros; NaN and infinite pixels become 0.
    """
    return (readings(image)[0] if reading is None else reading)(image)


def eight_bit(image: NDArray[Any], reading: Reading | None = None) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB: grey and RGB of 8 bits as they are, others with `normalise`'s range at 0…255."""
    if image.dtype == np.uint8:
        rgb = as_channels(image)
        if rgb.shape[2] in (1, 3):
            return rgb if rgb.shape[2] == 3 else np.repeat(rgb, 3, axis=2)
    return np.round(normalise(image, reading).clip(0, 1) * 255).astype(np.uint8)
