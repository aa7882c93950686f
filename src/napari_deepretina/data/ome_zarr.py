"""Images in OME-Zarr (NGFF 0.4 and 0.5), read part by part."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from napari_deepretina.data.channel_names import of_omero
from napari_deepretina.data.guarded import Guarded
from napari_deepretina.data.picture import MICROMETRES, Picture, possible_size
from napari_deepretina.errors import UserError
from napari_deepretina.intake import first_fault, read_json


def is_ome_zarr(path: Path) -> bool:
    """Whether a folder is a multiscale OME-Zarr image."""
    return path.is_dir() and bool(_attributes(path))


def open_ome_zarr(path: Path, given: str = "") -> Picture:
    """The image at full resolution as an array of dask, axes of one position left out.

    Parameters
    ----------
    given : a letter for each axis, for an image that is called otherwise than the file tells.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    import dask.array
    import zarr

    attributes = _attributes(path)
    told = attributes.get("multiscales") if attributes else None
    if not told:
        raise UserError(f"{path} is not an OME-Zarr image")
    try:
        axes = [a["name"] if isinstance(a, dict) else a for a in told[0]["axes"]]
        place = Path(os.path.normpath((path / told[0]["datasets"][0]["path"]).absolute()))
        if not place.is_relative_to(path.absolute()):
            raise ValueError(f"its image {place} lies outside")
        opened: Any = zarr.open_array(str(place), mode="r")
        blocks = _blocks(opened.shape, opened.chunks)
        level = dask.array.from_array(Guarded(opened, str(place), blocks), chunks=blocks, name=False)
    except Exception as error:
        # zarr raises all sorts of types on broken files; the reason is passed on.
        raise UserError(f"{path} cannot be read as OME-Zarr: {first_fault(error)}") from None
    if len(axes) != level.ndim or axes[-2:] != ["y", "x"]:
        raise UserError(f"{path} has axes {axes} and shape {level.shape}; an image ends with y and x")
    many = [i for i, extent in enumerate(level.shape) if extent > 1 or i >= level.ndim - 2]
    image = level[tuple(slice(None) if i in many else 0 for i in range(level.ndim))]
    told_axes = "".join(str(axes[i])[0].upper() for i in many)
    return Picture(image, given or told_axes, _pixel_size(told[0], axes), channels=of_omero(attributes))


LEAST_BLOCK, MOST_BLOCKS = 256, 2_000_000
"""Sides that are read together at least, in pixels, and parts that an image may have."""


def _blocks(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """What is read together: whole chunks, several where they are very small.

    Raises
    ------
    ValueError
        If there were too many to keep account of.
    """
    least = (1,) * (len(shape) - 2) + (LEAST_BLOCK,) * 2
    blocks = tuple(c * max(1, least_ // c) for c, least_ in zip(chunks, least, strict=True))
    count = math.prod(-(-n // b) for n, b in zip(shape, blocks, strict=True))
    if count > MOST_BLOCKS:
        raise ValueError(f"it declares {count:,} parts, which is not believed")
    return blocks


def _pixel_size(multiscale: dict[str, Any], axes: list[str]) -> tuple[float, float] | None:
    """Height and width of a pixel in µm, if the file tells them."""
    try:
        scales = [t["scale"] for t in multiscale["datasets"][0]["coordinateTransformations"] if "scale" in t]
        units = {a["name"]: a.get("unit") for a in multiscale["axes"]}
        y, x = (float(scales[0][axes.index(a)]) * MICROMETRES[units[a]] for a in "yx")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return possible_size((y, x))


def _attributes(path: Path) -> dict[str, Any]:
    """What the folder's metadata say of its image, in either version of the format; {} if it holds none."""
    for name in ("zarr.json", ".zattrs"):
        try:
            content = read_json(path / name)
        except UserError:
            continue
        attributes: Any = content.get("attributes", content) if isinstance(content, dict) else {}
        found = attributes.get("ome") or attributes
        if isinstance(found, dict) and isinstance(found.get("multiscales"), list) and found["multiscales"]:
            return found
    return {}
