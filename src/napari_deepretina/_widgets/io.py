"""napari's readers and writers: RLE CSV and COCO JSON in and out; ROIs, tables and scaled TIFF out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.notifications import show_warning

from napari_deepretina._widgets.document_view import DocumentView
from napari_deepretina._widgets.documents import as_document, layer_of, told_of
from napari_deepretina._widgets.measuring import channels_of, pixel_size_of
from napari_deepretina._widgets.own_labels import KEY, RAW
from napari_deepretina.data.coco import read_coco
from napari_deepretina.data.regions import SUFFIX as REGIONS
from napari_deepretina.data.regions import read_regions
from napari_deepretina.data.rle_csv import decode_objects, read_rle_csv, read_shapes
from napari_deepretina.document import Document
from napari_deepretina.document.measure import SHAPE, Columns
from napari_deepretina.document.store import SUFFIX, save
from napari_deepretina.errors import UserError
from napari_deepretina.export.coco import write_coco
from napari_deepretina.export.features import cell, write_features
from napari_deepretina.export.geojson import write_geojson
from napari_deepretina.export.rle_csv import write_rle_csv
from napari_deepretina.export.rois import write_rois
from napari_deepretina.export.tiff import write_labels
from napari_deepretina.files import protected
from napari_deepretina.instances import Instances
from napari_deepretina.instances.labels import LabelImage, fitting_int32
from napari_deepretina.intake import read_json
from napari_deepretina.postprocess import PostprocessSettings

_MEASURED = ("x0", "y0", "x1", "y1", "x", "y", *SHAPE)
LayerData = tuple[Any, dict[str, Any], str]


def get_reader(path: str | list[str]) -> Callable[[Any], list[LayerData]] | None:
    """A reader for RLE CSV, COCO JSON, GeoJSON or nuclei with their history; None for other files."""
    if not isinstance(path, str):
        return None
    kind = Path(path).suffix.lower()
    if kind == SUFFIX:
        return lambda p: [layer_of(Path(p))]
    if kind == REGIONS:
        return read_regions_layer
    if kind == ".json":
        return read_coco_layers if _looks_like_coco(Path(path)) else None
    try:
        return read_rle if kind == ".csv" and read_rle_csv(Path(path)) is not None else None
    except UserError:
        return None


def read_regions_layer(path: str) -> list[LayerData]:
    """GeoJSON outlines, such as QuPath's annotations, as a shapes layer; Segment takes them as regions."""
    shapes, names = [], []
    for region in read_regions(Path(path)):
        for ring in region.rings:
            shapes.append(np.array(ring)[:, ::-1] - 0.5)
            names.append(region.name)
    meta = {
        "name": Path(path).stem,
        "shape_type": "polygon",
        "features": {"name": np.array(names, object)},
        "edge_color": "yellow",
        "face_color": "transparent",
        "edge_width": 2,
    }
    return [(shapes, meta, "shapes")]


def _looks_like_coco(path: Path) -> bool:
    """Whether it is worth reading: misfits inside are told by the reader itself."""
    try:
        content = read_json(path)
    except UserError:
        return False
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


def read_coco_layers(path: str) -> list[LayerData]:
    """One labels layer an image, with score and class of each object in its features."""
    layers: list[LayerData] = []
    for name, instances in read_coco(Path(path)).items():
        features = {
            "index": instances.ids,
            "score": instances.scores.astype(float),
            "class": instances.classes,
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
    """Save a labels layer as RLE CSV with columns Height and Width; each plane is an image of its own."""
    name = meta.get("name", "labels")
    found = [(name + suffix, instances) for suffix, _, instances in _planes(data, meta)]
    write_rle_csv(found, Path(path), with_shape=True)
    return [path]


@_beside_images
def write_labels_coco(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save a labels layer as COCO JSON, under its image's file name, with scores and classes where known."""
    write_coco(_files_of_planes(data, meta), Path(path), _classes(meta))
    return [path]


@_beside_images
def write_labels_polygons(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save a labels layer as COCO JSON with polygons."""
    write_coco(_files_of_planes(data, meta), Path(path), _classes(meta), polygons=True)
    return [path]


@_beside_images
def write_labels_rois(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save a labels layer as ImageJ ROI zip, each ROI called by its label."""
    planes = _planes(data, meta)
    if np.ndim(data) == 2:
        write_rois(planes[0][2], Path(path))
    else:
        write_rois({place: instances for _, place, instances in planes}, Path(path))
    return [path]


@_beside_images
def write_labels_geojson(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save the outlines of a labels layer of one plane as GeoJSON for QuPath."""
    if np.ndim(data) != 2:
        raise UserError("GeoJSON holds the outlines of one plane: choose ImageJ ROIs or COCO for a stack")
    write_geojson(_planes(data, meta)[0][2], Path(path), _classes(meta))
    return [path]


@_beside_images
def write_labels_tiff(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save a labels layer as int32 TIFF, with the size of its pixels if the layer has a unit of length."""
    size = pixel_size_of(meta.get("scale", (1, 1)), meta.get("units"))
    axes = "".join(("T", "Z")[-(np.ndim(data) - 2) :]) if np.ndim(data) > 2 else ""
    write_labels(_fitting(data), Path(path), pixel_size=size, axes=f"{axes}YX")
    return [path]


@_beside_images
def write_labels_table(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save the table of a labels layer, of one plane or of a stack; see `table_of`."""
    table = {name: [cell(v) for v in values.tolist()] for name, values in table_of(data, meta).items()}
    write_features([(Path(_image_file(meta)).stem, table)], Path(path))
    return [path]


@_beside_images
def write_document(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save nuclei with their settings, states and raw detections as one file, to go on another time."""
    held = (meta.get("metadata") or {}).get(RAW)
    document = as_document(np.asarray(data), meta)
    told = told_of(held.layer) if isinstance(held, DocumentView) else {"name": meta.get("name", "")}
    save(document, Path(path), told)
    return [path]


def table_of(data: Any, meta: dict[str, Any]) -> Columns:
    """The table of a labels layer: what its document, or its features, know, and measurements."""
    labels = np.asarray(data)
    held = (meta.get("metadata") or {}).get(RAW)
    size = pixel_size_of(meta.get("scale", (1, 1)), meta.get("units"))
    if isinstance(held, DocumentView):
        held.sync()
        if np.array_equal(held.document.labels, labels):
            channels = {k: v for image in held.images for k, v in channels_of(image, held.layer).items()}
            return held.document.table(channels, pixel_size=size)
    document = Document(fitting_int32(labels)[0], PostprocessSettings(), {})
    table = document.table(pixel_size=size)
    known = _known(meta)
    if known is not None:
        told = known.reindex(table["index"])
        table |= {c: told[c].to_numpy() for c in told.columns if c not in ("area", *_MEASURED)}
    return table


def _known(meta: dict[str, Any]) -> Any:
    """The features of a layer with one row a label; None if they do not tell their labels."""
    features = meta.get("features")
    for column in ("label", "index"):
        if features is not None and column in features:
            known = features.drop_duplicates(column).set_index(column)
            return known[[c for c in known.columns if c not in ("label", "index")]]
    return None


def _classes(meta: dict[str, Any]) -> tuple[str, ...]:
    """Names of the classes that a layer's features tell apart."""
    known = _known(meta)
    named = [] if known is None or "class" not in known else [c for c in known["class"] if isinstance(c, str)]
    return tuple(dict.fromkeys(c for c in named if c)) or ("nucleus",)


def _image_file(meta: dict[str, Any]) -> str:
    """File name of the image that labels were made from, else the name of the image or of the layer."""
    mark = (meta.get("metadata") or {}).get(KEY)
    told = mark if isinstance(mark, dict) else {}
    paths = told.get("inputs") or []
    return Path(paths[0]).name if paths else str(told.get("image") or meta.get("name", "labels"))


def _fitting(data: Any) -> LabelImage:
    """The labels; ids that int32 cannot hold are renumbered, with a word."""
    labels = np.asarray(data)
    if not 2 <= labels.ndim <= 4:
        raise UserError(f"labels of a plane or a stack can be saved, these have shape {labels.shape}")
    fitting, renumbered = fitting_int32(labels)
    if renumbered:
        show_warning("Some ids were too large for this format: the nuclei were renumbered from 1.")
    return fitting


def _planes(data: Any, meta: dict[str, Any]) -> list[tuple[str, int, Instances]]:
    """Of each plane: what is added to an image's name, its number in the stack, and its nuclei."""
    labels = _fitting(data)
    found = []
    for place, index in enumerate(np.ndindex(labels.shape[:-2])):
        suffix = "".join(f"_{i:04}" for i in index)
        found.append((suffix, place, _instances(labels[index], meta)))
    return found


def _files_of_planes(data: Any, meta: dict[str, Any]) -> list[tuple[str, Instances]]:
    """File name and nuclei of each plane."""
    path = Path(_image_file(meta))
    return [(f"{path.stem}{suffix}{path.suffix}", found) for suffix, _, found in _planes(data, meta)]


def _instances(data: LabelImage, meta: dict[str, Any]) -> Instances:
    """The nuclei of a layer's plane, with scores and classes where its features tell them; NaN where not."""
    instances = Instances.from_labels(data)
    known = _known(meta)
    scores = np.full(len(instances), np.nan, np.float32)
    classes = np.ones(len(instances), np.int32)
    if known is not None and "score" in known:
        scores = known["score"].reindex(instances.ids).to_numpy(np.float32, na_value=np.nan)
    if known is not None and "class" in known:
        number = {name: k for k, name in enumerate(_classes(meta), start=1)}
        classes = np.array([number.get(c, 1) for c in known["class"].reindex(instances.ids)], np.int32)
    return replace(instances, scores=scores, classes=classes)
