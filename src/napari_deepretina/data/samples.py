"""Images to try the plugin on: generated, brought along by scikit-image, or fetched by it."""

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


def human_mitosis() -> NDArray[Any]:
    """(512, 512) uint8, real human cells with a fluorescent stain of DNA, some of them dividing."""
    return fetched("human_mitosis")


def skin() -> NDArray[Any]:
    """(960, 1280, 3) uint8, a real section of skin, stained with haematoxylin and eosin."""
    return fetched("skin")


def cells3d() -> NDArray[Any]:
    """(60, 2, 256, 256) uint16, a z-stack of real cells: membranes and nuclei."""
    return fetched("cells3d")


def fetched(name: str) -> NDArray[Any]:
    """An image that scikit-image fetches from its own store when it is first asked for, and then keeps.

    Raises
    ------
    UserError
        If the store cannot be reached, or what fetches it is not installed.
    """
    import skimage.data

    try:
        image: NDArray[Any] = getattr(skimage.data, name)()
    except ModuleNotFoundError:
        raise UserError(f"sample {name} is fetched when first opened, by pooch: pip install pooch") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"sample {name} is fetched when first opened, and its store cannot be reached now "
            f"({type(error).__name__}); the synthetic samples and immunohistochemistry need no network"
        ) from None
    return image


SAMPLES: dict[str, tuple[str, Callable[[], NDArray[Any]]]] = {
    "fluorescence": ("Fluorescent nuclei (synthetic)", fluorescence),
    "tissue": ("Stained nuclei (synthetic)", tissue),
    "immunohistochemistry": ("Immunohistochemistry (real)", immunohistochemistry),
    "human_mitosis": ("Human cells, some dividing (real, fetched once)", human_mitosis),
    "skin": ("Skin, H&E (real, fetched once)", skin),
}
"""Name → (title, function that makes the image)."""


def sample_image(name: str) -> NDArray[Any]:
    """One of SAMPLES by name; UserError lists the names if there is no such."""
    if name not in SAMPLES:
        raise UserError(f"no sample {name!r}; choose one of {', '.join(SAMPLES)}")
    return SAMPLES[name][1]()
