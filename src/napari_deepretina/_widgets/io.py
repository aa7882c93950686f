"""napari's readers and writers: RLE CSV and COCO JSON in and out; ROIs, tables and scaled TIFF out."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from napari_deepretina.data.coco import read_coco
from napari_deepretina.data.rle_csv import decode_objects, read_rle_csv, read_shapes
from napari_deepretina.errors import UserError
from napari_deepretina.export.coco import write_coco
from napari_deepretina.export.features import write_features
from napari_deepretina.export.rle_csv import write_rle_csv
from napari_deepretina.export.rois import write_rois
from napari_deepretina.export.tiff import write_labels
from napari_deepretina.files import protected
from napari_deepretina.instances import Instances

LayerData = tuple[Any, dict[str, Any], str]


def get_reader(path: str | list[str]) -> Callable[[Any], list[LayerData]] | None:
    """A reader for an RLE CSV or COCO JSON; None for other files, so that napari tries other readers."""
    if not isinstance(path, str):
        return None
    kind = Path(path).suffix.lower()
    if kind == ".json":
        return read_coco_layers if _looks_like_coco(Path(path)) else None
    try:
        return read_rle if kind == ".csv" and read_rle_csv(Path(path)) is not None else None
    except UserError:
        return None


def _looks_like_coco(path: Path) -> bool:
    """Whether it is worth reading: misfits inside are told by the reader itself."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


def read_coco_layers(path: str) -> list[LayerData]:
    """One labels layer an image, with score and class of each object in its features."""
    layers: list[LayerData] = []
    for name, instances in read_coco(Path(path)).items():
        features = {
            "label": np.arange(len(instances) + 1),
            "score": np.concatenate([[np.nan], instances.scores.astype(float)]),
            "class": np.concatenate([[0], instances.classes]),
        }
        layers.append((instances.to_labels(), {"name": name, "features": features}, "labels"))
    return layers


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


Writer = Callable[[str, Any, dict[str, Any]], list[str]]


def _beside_images(writer: Writer) -> Writer:
    """The same writer, which refuses the files of the images that are open."""

    @wraps(writer)
    def guarded(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
        with protected(*files_of_images()):
            return writer(path, data, meta)

    return guarded


def files_of_images() -> list[str]:
    """Paths that the image layers of the open viewer were read from."""
    import napari

    viewer = napari.current_viewer()
    layers = [] if viewer is None else [x for x in viewer.layers if x._type_string == "image"]
    return [x.source.path for x in layers if x.source.path]


@_beside_images
def write_labels_rle(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save a labels layer as RLE CSV with columns Height and Width."""
    write_rle_csv([(meta.get("name", "labels"), _instances(data))], Path(path), with_shape=True)
    return [path]


@_beside_images
def write_labels_coco(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save a labels layer as COCO JSON."""
    write_coco([(meta.get("name", "labels"), _instances(data))], Path(path))
    return [path]


@_beside_images
def write_labels_polygons(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save a labels layer as COCO JSON with polygons."""
    write_coco([(meta.get("name", "labels"), _instances(data))], Path(path), polygons=True)
    return [path]


@_beside_images
def write_labels_rois(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save a labels layer as ImageJ ROI zip."""
    write_rois(_instances(data), Path(path))
    return [path]


@_beside_images
def write_labels_tiff(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save a labels layer as int32 TIFF that tells the size of its pixels."""
    labels = _flat(data)
    scale = tuple(float(s) for s in meta.get("scale", (1, 1))[-2:])
    unit = str((meta.get("units") or ("pixel",))[-1])
    physical = unit != "pixel" or scale != (1.0, 1.0)
    short = {"micrometer": "µm", "nanometer": "nm", "millimeter": "mm"}.get(unit, unit)
    write_labels(labels, Path(path), pixel_size=(scale[0], scale[1]) if physical else None, unit=short)
    return [path]


@_beside_images
def write_labels_table(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save the table of a labels layer: its features, with area and box measured on the pixels now."""
    labels = _flat(data)
    instances = Instances.from_labels(labels)
    ids = np.unique(labels[labels > 0])
    boxes = instances.tight_boxes()
    columns: dict[str, Any] = {"label": ids, "area": instances.areas}
    columns |= {k: boxes[:, i] for i, k in enumerate(("x0", "y0", "x1", "y1"))}
    features = meta.get("features")
    if features is not None and "label" in features:
        known = features.set_index("label")
        columns |= {c: known[c].reindex(ids).tolist() for c in known.columns if c not in columns}
    write_features([(meta.get("name", "labels"), columns)], Path(path))
    return [path]


def _flat(data: Any) -> Any:
    labels = np.asarray(data)
    if labels.ndim != 2:
        raise UserError(f"only 2D labels can be saved like this, these have shape {labels.shape}")
    return labels


def _instances(data: Any) -> Instances:
    return Instances.from_labels(_flat(data))
