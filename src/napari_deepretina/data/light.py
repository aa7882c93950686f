"""What lights an image: nuclei that glow by themselves, or light that comes through the specimen."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_deepretina.data.channels import as_channels, overview
from napari_deepretina.data.reading import Reading, readings, shown
from napari_deepretina.data.sample import Dataset
from napari_deepretina.model.header import Light

LIT = 0.125
"""Light comes through where three quarters of an image are brighter than this, in units of its range. The
darkest quarter of the annotated images reaches up to 0.08 at most in fluorescence, and to 0.17 at least in
stained tissue and brightfield."""
_SEEN = 256
_ASKED = 9


def light_of(image: Any, reading: Reading) -> Light:
    """Whether an image is one of fluorescence or of transmitted light, told from its ground.

    Parameters
    ----------
    image : (H, W) or (H, W, C); of large ones an overview is looked at.
    reading : of this image; what it says is no picture does not count.
    """
    seen = overview(image)
    every = -(-max(seen.shape[:2]) // _SEEN)
    few = np.ascontiguousarray(seen[::every, ::every])
    inside = shown(as_channels(few), reading.blank)
    if not inside.any():
        return "fluorescence"
    ground = np.percentile(reading(few).max(axis=2)[inside], 25)
    return "transmitted" if ground > LIT else "fluorescence"


def light_of_most(dataset: Dataset) -> Light:
    """The light of most images of a data set, told from a few of them."""
    few = sorted({k * len(dataset) // _ASKED for k in range(_ASKED)}) if len(dataset) else []
    images = [dataset[k].image for k in few]
    through = [light_of(image, readings(image)[0]) == "transmitted" for image in images]
    return "transmitted" if sum(through) > len(through) / 2 else "fluorescence"
