"""Images to try the plugin on; all of them work without a network connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError


def fluorescence() -> NDArray[Any]:
    """(512, 512) uint8, about 90 generated bright nuclei."""
    return synthetic_nuclei((512, 512), 90, diameter=34, seed=1)[0]


def tissue() -> NDArray[Any]:
    """(512, 512, 3) uint8, about 110 generated stained nuclei."""
    return synthetic_nuclei((512, 512), 110, diameter=30, kind="tissue", seed=2)[0]


def immunohistochemistry() -> NDArray[Any]:
    """(512, 512, 3) uint8, real tissue: scikit-image's picture of colonic glands."""
    import skimage.data

    image: NDArray[Any] = skimage.data.immunohistochemistry()
    return image


SAMPLES: dict[str, tuple[str, Callable[[], NDArray[Any]]]] = {
    "fluorescence": ("Fluorescent nuclei (synthetic)", fluorescence),
    "tissue": ("Stained nuclei (synthetic)", tissue),
    "immunohistochemistry": ("Immunohistochemistry (real)", immunohistochemistry),
}
"""Name → (title, function that makes the image)."""


def sample_image(name: str) -> NDArray[Any]:
    """One of SAMPLES by name; UserError lists the names if there is no such."""
    if name not in SAMPLES:
        raise UserError(f"no sample {name!r}; choose one of {', '.join(SAMPLES)}")
    return SAMPLES[name][1]()
