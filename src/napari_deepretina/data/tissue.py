"""Whether an image shows what networks of fluorescence are lost in: stained tissue, or unstained cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

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
BETWEEN, PEAKED, DARKER, LEVEL = (0.42, 0.64), 5.0, 4.5, 24
"""Unstained cells are darker and brighter than their ground alike, which lies between so much of the range,
once the light is levelled over this part of the image's side; and the ground is most of the image, so the
excess kurtosis is above this, and the darkest half per cent is so many times as far below the middle as the
darkest quarter (noise: 3.8). All 29 images of two sets of brightfield are so, none of 658 grey ones of
fluorescence and of dark nuclei on white, and 1 of 2,152 windows in these that hold three nuclei and more."""
_SEEN, _ASKED = 256, 9


def needs_specialist(image: Any, reading: Reading) -> bool:
    """Whether an image shows stained tissue or unstained cells.

    Parameters
    ----------
    image : (H, W) or (H, W, C); of large ones an overview is looked at.
    reading : of this image; what it says is no picture does not count. In stains by themselves nuclei are
        bright on dark.
    """
    seen = _looked_over(image, reading)
    return seen is not None and (_is_tissue(*seen) or _is_unstained(*seen))


def shows_tissue(image: Any, reading: Reading) -> bool:
    """Whether an image is stained on a bright ground: by a warm colour, as H&E and DAB are, or all over.

    Thin smears in violet on white ground do not count: general networks know them (stage 1 of the 2018 Data
    Science Bowl has a hundred). Parameters as of `needs_specialist`.
    """
    seen = _looked_over(image, reading)
    return seen is not None and _is_tissue(*seen)


def shows_unstained(image: Any, reading: Reading) -> bool:
    """Whether an image is of unstained cells in transmitted light: grey, on a ground of medium brightness.

    Parameters as of `needs_specialist`.
    """
    seen = _looked_over(image, reading)
    return seen is not None and _is_unstained(*seen)


def _is_tissue(few: NDArray[np.float32], inside: NDArray[np.bool_]) -> bool:
    pixels = few[inside]
    brightest = pixels.max(axis=1)
    stained = pixels[brightest - pixels.min(axis=1) > STAINED]
    ground = np.percentile(brightest, 25)
    if len(stained) <= LEAST * len(pixels) or ground < LIT:
        return False
    return bool(ground < WHITE or np.percentile(stained[:, 0] - stained[:, 2], 90) > WARM)


def _is_unstained(few: NDArray[np.float32], inside: NDArray[np.bool_]) -> bool:
    grey = few.max(axis=2)
    if (grey - few.min(axis=2) > STAINED)[inside].mean() > LEAST:
        return False
    quarter, middle = np.percentile(grey[inside], (25, 50))
    if quarter < LIT or middle > WHITE:
        return False
    light = ndimage.gaussian_filter(np.where(inside, grey, middle), max(grey.shape) / LEVEL)
    apart = (grey - light)[inside].astype(np.float64)
    darkest, dark, ground, brightest = np.percentile(apart, (0.5, 25, 50, 99.5))
    if ground - darkest <= DARKER * (ground - dark):
        return False
    apart -= apart.mean()
    peaked = (apart**4).mean() / (apart**2).mean() ** 2 - 3 > PEAKED
    return bool(peaked and BETWEEN[0] < (ground - darkest) / (brightest - darkest) < BETWEEN[1])


def _looked_over(image: Any, reading: Reading) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """A small (h, w, 3) version of an image, 0 to 1, and which of its pixels show something; None if none."""
    if reading.inverted or reading.stains:
        return None
    seen = overview(image)
    every = -(-max(seen.shape[:2]) // _SEEN)
    few = np.ascontiguousarray(seen[::every, ::every])
    inside = shown(as_channels(few), reading.blank)
    return (reading(few), inside) if inside.any() else None


def most_need_specialist(dataset: Dataset) -> bool:
    """Whether most images of a data set show stained tissue or unstained cells, told from a few of them."""
    few = sorted({k * len(dataset) // _ASKED for k in range(_ASKED)}) if len(dataset) else []
    images = [dataset[k].image for k in few]
    return sum(needs_specialist(image, readings(image)[0]) for image in images) > len(images) / 2
