"""Stains told apart by their colours (Ruifrok and Johnston 2001), as scikit-image does it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

HAEMATOXYLIN, DAB = 0, 2
"""Places of the stains of nuclei among `densities`; eosin lies between them."""
DARKEST = 0.02
"""Stains are separated by logarithms: what is darker counts as this, in units of white."""
BROWN, LEAST = 0.06, 0.01
"""Brown has so much less blue than green, and green than red, in units of white; eosin has more blue than
green. An image is brown where so large a share of its pixels is."""


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

    light = np.clip(values.astype(np.float32) / np.float32(white), DARKEST, 1)
    return np.asarray(rgb2hed(light), np.float32)


def shows_brown(values: NDArray[Any], white: float) -> bool:
    """Whether pixels (N, 3) of an image on bright ground hold DAB, the brown of immunohistochemistry."""
    if white <= 0 or not len(values):
        return False
    red, green, blue = (values[:, c].astype(np.float32) / np.float32(white) for c in range(3))
    brown = (green - blue > BROWN) & (red - green > BROWN)
    return bool(brown.mean() > LEAST)
