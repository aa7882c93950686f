"""Stains told apart by their colours (Ruifrok and Johnston 2001), as scikit-image does it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

HAEMATOXYLIN, DAB = 0, 2
"""Places of the stains of nuclei among `densities`; eosin lies between them."""
STAINS = {
    "haematoxylin": ((HAEMATOXYLIN,), "only haematoxylin is looked at, without other stains"),
    "haematoxylin+brown": ((HAEMATOXYLIN, DAB), "haematoxylin and the brown stain are looked at together"),
}
"""Stains of nuclei that can be looked at by themselves, and what is said of it."""
DARKEST = 0.02
"""Stains are separated by logarithms: what is darker counts as this, in units of white."""
BROWN, LEAST = 0.06, 0.01
"""Brown has so much less blue than green, and green than red, in units of white; eosin has more blue than
green. An image is brown where so large a share of its pixels is."""
_BLUR, _EVERY = 7, 3


def densities(values: NDArray[Any], white: float) -> NDArray[np.float32]:
    """How much haematoxylin, eosin and DAB each pixel holds.

    Parameters
    ----------
    values : (…, 3) red, green and blue, any real dtype.
    white : the value of what holds no stain.

    Returns
    -------
    (…, 3) float32, not below 0, in scikit-image's units; NaN where a value is.
    """
    from skimage.color import rgb2hed

    with np.errstate(invalid="ignore", over="ignore"):
        light = np.clip(values.astype(np.float32) / np.float32(white), DARKEST, 1)
        return np.asarray(rgb2hed(light), np.float32)


def shows_brown(image: NDArray[Any], white: float) -> bool:
    """Whether an image (H, W, 3) on bright ground holds DAB, the brown of immunohistochemistry.

    It is looked at blurred, for noise has all colours.
    """
    if white <= 0:
        return False
    light = np.nan_to_num(np.clip(image / white, 0, 1), nan=1.0).astype(np.float32)
    blurred = ndimage.uniform_filter(light, size=(_BLUR, _BLUR, 1))[::_EVERY, ::_EVERY]
    red, green, blue = np.moveaxis(blurred, 2, 0)
    brown = (green - blue > BROWN) & (red - green > BROWN)
    return bool(brown.mean() > LEAST)
