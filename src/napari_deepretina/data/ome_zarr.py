"""Images in OME-Zarr (NGFF 0.4 and 0.5), read part by part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from napari_deepretina.data.picture import Picture
from napari_deepretina.errors import UserError


def is_ome_zarr(path: Path) -> bool:
    """Whether a folder is a multiscale OME-Zarr image."""
    return path.is_dir() and bool(_multiscales(path))


def open_ome_zarr(path: Path) -> Picture:
    """The image at full resolution as an array of dask, axes of one position left out.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    import dask.array

    told = _multiscales(path)
    if not told:
        raise UserError(f"{path} is not an OME-Zarr image")
    try:
        axes = [a["name"] if isinstance(a, dict) else a for a in told[0]["axes"]]
        level = dask.array.from_zarr(str(path / told[0]["datasets"][0]["path"]))
    except (KeyError, IndexError, TypeError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as OME-Zarr: {error!r}") from None
    if len(axes) != level.ndim or axes[-2:] != ["y", "x"]:
        raise UserError(f"{path} has axes {axes} and shape {level.shape}; an image ends with y and x")
    many = [i for i, extent in enumerate(level.shape) if extent > 1 or i >= level.ndim - 2]
    image = level[tuple(slice(None) if i in many else 0 for i in range(level.ndim))]
    return Picture(image, "".join(str(axes[i])[0].upper() for i in many))


def _multiscales(path: Path) -> list[dict[str, Any]]:
    """What the folder's metadata say of its images, in either version of the format."""
    for name in ("zarr.json", ".zattrs"):
        try:
            content = json.loads((path / name).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        attributes: Any = content.get("attributes", content) if isinstance(content, dict) else {}
        found = (attributes.get("ome") or attributes).get("multiscales")
        if isinstance(found, list) and found:
            return found
    return []
