"""napari's readers and writers: RLE CSV in and out, COCO JSON and ImageJ ROIs out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from napari_deepretina.data.rle_csv import decode_objects, read_rle_csv, read_shapes
from napari_deepretina.errors import UserError
from napari_deepretina.export.coco import write_coco
from napari_deepretina.export.rle_csv import write_rle_csv
from napari_deepretina.export.rois import write_rois
from napari_deepretina.instances import Instances

LayerData = tuple[Any, dict[str, Any], str]


def get_reader(path: str | list[str]) -> Callable[[Any], list[LayerData]] | None:
    """A reader for an RLE CSV; None for any other file, so that napari tries other readers."""
    if not isinstance(path, str) or not path.lower().endswith(".csv"):
        return None
    try:
        read_rle_csv(Path(path))
    except UserError:
        return None
    return read_rle


def read_rle(path: str) -> list[LayerData]:
    """One labels layer an image.

    The CSV does not tell how large its images are, unless it has the columns Height and Width (as
    ours from File ▸ Save have); else the shape is that of an open image layer of the same name, or
    of the only one.
    """
    strings, shapes = read_rle_csv(Path(path)), read_shapes(Path(path))
    layers: list[LayerData] = []
    for name, objects in strings.items():
        shape = shapes.get(name) or _shape_of_open_image(name)
        labels = decode_objects(objects, shape, name).to_labels()
        layers.append((labels, {"name": name}, "labels"))
    return layers


def _shape_of_open_image(name: str) -> tuple[int, int]:
    import napari

    viewer = napari.current_viewer()
    images = [] if viewer is None else [x for x in viewer.layers if x._type_string == "image"]
    named = [x for x in images if x.name == name] or (images if len(images) == 1 else [])
    if not named:
        raise UserError(
            f"The file does not tell how large {name!r} is: open the image of that name first, or add "
            "columns Height and Width."
        )
    data = named[0].data[0] if named[0].multiscale else named[0].data
    shape = data.shape[:-1] if named[0].rgb else data.shape
    return int(shape[-2]), int(shape[-1])


def write_labels_rle(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save a labels layer as RLE CSV with columns Height and Width."""
    write_rle_csv([(meta.get("name", "labels"), _instances(data))], Path(path), with_shape=True)
    return [path]


def write_labels_coco(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save a labels layer as COCO JSON."""
    write_coco([(meta.get("name", "labels"), _instances(data))], Path(path))
    return [path]


def write_labels_rois(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save a labels layer as ImageJ ROI zip."""
    write_rois(_instances(data), Path(path))
    return [path]


def _instances(data: Any) -> Instances:
    labels = np.asarray(data)
    if labels.ndim != 2:
        raise UserError(f"only 2D labels can be saved like this, these have shape {labels.shape}")
    return Instances.from_labels(labels)
