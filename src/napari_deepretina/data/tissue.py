"""Whether an image shows stained tissue, in which many networks of fluorescence are lost."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.channels import as_channels, overview
from napari_deepretina.data.reading import Reading, readings, shown
from napari_deepretina.data.sample import Dataset

LIT, WHITE = 0.125, 0.78
"""Where the darkest quarter of an image reaches up to less, in units of its range, the ground is dark; where
it reaches up to more, white."""
STAINED, LEAST = 0.1, 0.005
"""Pixels whose colours differ by more are stained, and so large a share of the image must be."""
WARM = -0.03
"""Red less blue, of the reddest tenth of what is stained: eosin and DAB reach up to so much, violet stains
alone do not."""
_SEEN, _ASKED = 256, 9


def shows_tissue(image: Any, reading: Reading) -> bool:
    """Whether an image is stained on a bright ground: by a warm colour, as H&E and DAB are, or all over.

    Thin smears in violet on white ground do not count: general networks know them (stage 1 of the 2018 Data
    Science Bowl has a hundred).
    Grey ones never count: unstained cells in brightfield look much like fluorescence that fills the image.

    Parameters
    ----------
    image : (H, W) or (H, W, C); of large ones an overview is looked at.
    reading : of this image; what it says is no picture does not count. In stains by themselves nuclei are
        bright on dark.
    """
    if reading.inverted or reading.stains:
        return False
    seen = overview(image)
    every = -(-max(seen.shape[:2]) // _SEEN)
    few = np.ascontiguousarray(seen[::every, ::every])
    pixels: NDArray[np.float32] = reading(few)[shown(as_channels(few), reading.blank)]
    brightest = pixels.max(axis=1)
    stained = pixels[brightest - pixels.min(axis=1) > STAINED]
    ground = np.percentile(brightest, 25) if len(pixels) else 0.0
    if len(stained) <= LEAST * len(pixels) or ground < LIT:
        return False
    return bool(ground < WHITE or np.percentile(stained[:, 0] - stained[:, 2], 90) > WARM)


def mostly_tissue(dataset: Dataset) -> bool:
    """Whether most images of a data set show stained tissue, told from a few of them."""
    few = sorted({k * len(dataset) // _ASKED for k in range(_ASKED)}) if len(dataset) else []
    images = [dataset[k].image for k in few]
    return sum(shows_tissue(image, readings(image)[0]) for image in images) > len(images) / 2
