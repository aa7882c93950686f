"""Label images as int32 TIFF, and pictures of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.files import encode_tiff
from napari_deepretina.data.normalise import normalise
from napari_deepretina.data.ours import MARK
from napari_deepretina.files import written_whole
from napari_deepretina.instances import Instances
from napari_deepretina.instances.labels import LabelImage, fitting_int32

STREAMED_FROM = 2**26
"""Images of more pixels are painted and written in bands, as a tiled BigTIFF or a Zarr."""
_TILE = 1024


def write_labels(
    labels: LabelImage | Instances,
    path: Path,
    *,
    pixel_size: tuple[float, float] | None = None,
    axes: str = "YX",
) -> None:
    """Write labels as int32 TIFF, 0 background, deflate-compressed.

    Parameters
    ----------
    labels : (H, W), (…, H, W) of a stack, or the instances of an image, whose labels are painted in bands
        if they are many: the whole of them is never in memory. Ids that int32 cannot hold are renumbered.
    axes : a letter for each axis of `labels`.
    pixel_size : height and width of a pixel in µm; given, the file is an OME-TIFF that tells it, also as
        pixels a centimetre, which is where ImageJ looks for it.
    """
    import tifffile

    told: dict[str, Any] = {"photometric": "minisblack", "software": MARK}
    if pixel_size is not None:
        height, width = pixel_size
        size = {"PhysicalSizeY": height, "PhysicalSizeX": width}
        units = dict.fromkeys(("PhysicalSizeYUnit", "PhysicalSizeXUnit"), "µm")
        told |= {"ome": True, "metadata": {"axes": axes, **size, **units}}
        told |= {"resolution": (1e4 / width, 1e4 / height), "resolutionunit": "CENTIMETER"}
    elif axes != "YX":
        told |= {"metadata": {"axes": axes}}
    if isinstance(labels, Instances):
        if labels.shape[0] * labels.shape[1] > STREAMED_FROM:
            told |= {"shape": labels.shape, "dtype": np.int32, "tile": (_TILE, _TILE), "bigtiff": True}
            with written_whole(path) as part:
                tifffile.imwrite(part, _tiles(labels), compression="zlib", **told)
            return
        labels = labels.to_labels()
    with written_whole(path) as part:
        part.write_bytes(encode_tiff(fitting_int32(labels)[0], compression="zlib", **told))


def _bands(instances: Instances) -> Iterator[tuple[int, LabelImage]]:
    for top in range(0, instances.shape[0], _TILE):
        yield top, instances.to_labels(slice(top, top + _TILE))


def _tiles(instances: Instances) -> Iterator[NDArray[np.int32]]:
    """Squares of a label image, row by row, those at the right and the bottom filled up."""
    for _, band in _bands(instances):
        filled = np.zeros((_TILE, -(-band.shape[1] // _TILE) * _TILE), np.int32)
        filled[: band.shape[0], : band.shape[1]] = band
        yield from np.split(filled, filled.shape[1] // _TILE, axis=1)


def write_labels_zarr(labels: LabelImage | Instances, path: Path, axes: str = "YX") -> None:
    """Write labels as an OME-Zarr image (NGFF 0.5) of one level, in compressed chunks.

    Parameters
    ----------
    labels, axes : as of `write_labels`.
    """
    import zarr

    kinds = {"Z": "space", "Y": "space", "X": "space", "T": "time"}
    told = {
        "version": "0.5",
        "image-label": {},
        "multiscales": [
            {
                "name": path.name.removesuffix(".zarr"),
                "axes": [{"name": a.lower(), "type": kinds.get(a, "other")} for a in axes],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [{"type": "scale", "scale": [1.0] * len(axes)}],
                    }
                ],
            }
        ],
    }
    with written_whole(path) as part:
        root = zarr.open_group(str(part), mode="w", zarr_format=3, attributes={"ome": told})
        chunks = (*(1 for _ in labels.shape[:-2]), *(min(_TILE, n) for n in labels.shape[-2:]))
        stored = root.create_array("0", shape=labels.shape, chunks=chunks, dtype=np.int32)
        if not isinstance(labels, Instances):
            stored[:] = labels
            return
        for top, band in _bands(labels):
            stored[top : top + len(band)] = band


def write_image(image: NDArray[Any], path: Path, *, result: bool = False) -> None:
    """An image in the format of its suffix: TIFF keeps any dtype, PNG and others 8 bits.

    With `result`, a PNG names us as its maker, so that no later run takes it for an image to look at.
    """
    if path.suffix.lower() in (".tif", ".tiff"):
        with written_whole(path) as part:
            part.write_bytes(encode_tiff(image, photometric="rgb" if image.ndim == 3 else "minisblack"))
        return
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    options: dict[str, Any] = {}
    if result and path.suffix.lower() == ".png":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text("Software", MARK)
    with written_whole(path) as part:
        Image.fromarray(image).save(part, **options)


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
