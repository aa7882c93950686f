"""Label images as int32 TIFF, and pictures of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.normalise import normalise
from napari_deepretina.files import written_whole
from napari_deepretina.instances.labels import LabelImage


def write_labels(
    labels: LabelImage, path: Path, *, pixel_size: tuple[float, float] | None = None, unit: str = "µm"
) -> None:
    """Write labels as int32 TIFF, 0 background, deflate-compressed.

    Parameters
    ----------
    labels : (H, W).
    pixel_size : height and width of a pixel in `unit`; given, the file is an OME-TIFF that tells it, as
        Fiji, QuPath and napari-ome readers understand it.
    """
    import tifffile

    told: dict[str, Any] = {}
    if pixel_size is not None:
        size = {"PhysicalSizeY": pixel_size[0], "PhysicalSizeX": pixel_size[1]}
        units = {"PhysicalSizeYUnit": unit, "PhysicalSizeXUnit": unit}
        told = {"ome": True, "metadata": {"axes": "YX", **size, **units}}
    with written_whole(path) as part:
        tifffile.imwrite(part, labels.astype(np.int32, copy=False), compression="zlib", **told)


def write_image(image: NDArray[Any], path: Path) -> None:
    """An image in the format of its suffix: TIFF keeps any dtype, PNG and others 8 bits."""
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        with written_whole(path) as part:
            tifffile.imwrite(part, image, photometric="rgb" if image.ndim == 3 else "minisblack")
        return
    from PIL import Image

    with written_whole(path) as part:
        Image.fromarray(image).save(part)


def overlay(image: NDArray[Any], labels: LabelImage) -> NDArray[np.uint8]:
    """The image with each nucleus outlined in a colour of its own.

    Returns
    -------
    (H, W, 3) uint8.
    """
    from skimage.segmentation import find_boundaries

    picture = (np.clip(normalise(image), 0, 1) * 255).astype(np.uint8)
    edge = find_boundaries(labels, mode="inner")
    hues = (labels[edge].astype(np.float64) * 0.618034) % 1.0
    wheel = np.abs((hues[:, None] * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    picture[edge] = (np.clip(wheel, 0, 1) * 200 + 55).astype(np.uint8)
    return picture
