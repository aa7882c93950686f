"""What a run over many images writes: files for each image, and files for all."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.ours import RESULT
from napari_deepretina.data.picture import Picture
from napari_deepretina.export.coco import write_coco
from napari_deepretina.export.features import cell, write_features
from napari_deepretina.export.geojson import write_geojson
from napari_deepretina.export.rle_csv import write_rle_csv
from napari_deepretina.export.rois import write_rois
from napari_deepretina.export.tiff import overlay, write_image, write_labels, write_labels_zarr
from napari_deepretina.files import exists, harmless, open_csv, same_folder, written_whole
from napari_deepretina.inference.journal import Entry, Ledger, Record, hidden
from napari_deepretina.inference.segment import Segmentation, select_channel
from napari_deepretina.inference.sources import Source
from napari_deepretina.inference.stacks import StackSegmentation
from napari_deepretina.instances import Instances

FORMATS = ("labels", "zarr", "rle", "coco", "polygons", "rois", "geojson", "features", "overlay")

JOINT_FILES = {
    "rle": "submission.csv",
    "coco": "instances.json",
    "polygons": "polygons.json",
    "features": "features.csv",
}
"""Formats that put all images into one file."""
SUMMARY = "summary.csv"
SUMMARY_COLUMNS = (
    "image", "planes", "nuclei", "area_mean", "area_median", "covered", "intensity_nuclei",
    "intensity_background", "nuclei_reviewed", "reviewed",
)  # fmt: skip
RUN = "run.json"
_ENDINGS = {
    "labels": ".tif",
    "zarr": ".zarr",
    "rois": "_rois.zip",
    "geojson": ".geojson",
    "overlay": "_overlay.png",
}
_BESIDE = {"labels": ".tif", "zarr": ".zarr", "rois": ".zip", "geojson": ".geojson", "overlay": ".png"}
"""Beside images these follow `RESULT`: no two formats share a suffix."""
_BAND_PIXELS = 2**24


@dataclass(frozen=True)
class Places:
    """Where results go.

    Attributes
    ----------
    out : folder of the joint files, and of all others unless they go beside their images.
    formats : of `FORMATS`.
    beside : put each image's files into its own folder. There, and wherever else results come to lie beside
        their image, they are called ``<name>_nuclei``.
    """

    out: Path
    formats: Sequence[str] = ("labels",)
    beside: bool = False

    @property
    def hidden(self) -> Path:
        """What an interrupted run needs to go on."""
        return hidden(self.out)

    def of(self, source: Source, plane: str = "") -> dict[str, Path]:
        """Files of one image, by format; outlines and pictures of a stack are made of each plane."""
        beside = self.beside or same_folder(source.folder, self.out)
        folder = source.folder if self.beside else self.out
        endings = _BESIDE if beside else _ENDINGS
        found = {}
        for kind in (f for f in endings if f in self.formats):
            whole = kind in ("labels", "zarr")
            name = f"{source.name}{'' if whole else plane}{RESULT if beside else ''}{endings[kind]}"
            found[kind] = folder / name
        return found

    def joint(self) -> list[Path]:
        """Files that hold all images, in the formats that were asked for."""
        return [self.out / n for f, n in JOINT_FILES.items() if f in self.formats]

    def always(self) -> list[Path]:
        """Files that every run writes."""
        return [self.out / SUMMARY, self.out / RUN]

    def standing(self, sources: Sequence[Source]) -> list[Path]:
        """Results that are there already."""
        wanted = [p for s in sources for p in self.of(s).values()] + self.joint()
        return [p for p in wanted if exists(p)]


@dataclass(frozen=True)
class Outcome:
    """What is to be written of one image.

    Attributes
    ----------
    labels : (…, H, W) int32, or the instances of a single image, which are painted in bands.
    axes : a letter for each axis of the labels.
    planes : position and instances of each plane that was done; ((), instances) of a single image.
    channel : that was looked at; its intensities stand in the summary.
    classes : names of classes 1…C.
    table : columns of the table of nuclei.
    told : what run.json says of the image.
    reviewed : nuclei that a person has looked at, and whether the image is marked as done.
    """

    labels: Any
    axes: str
    planes: Sequence[tuple[tuple[int, ...], Instances]]
    channel: int | str | None
    classes: Sequence[str]
    table: dict[str, NDArray[Any]]
    told: dict[str, Any]
    reviewed: tuple[int, bool] = (0, False)


def outcome_of(done: Segmentation | StackSegmentation, picture: Picture) -> Outcome:
    """What is written of an image as a run left it."""
    notes = [*picture.notes, *done.provenance()["notes"]]
    told = {"nuclei": done.count, **done.provenance()["seconds"]} | ({"notes": notes} if notes else {})
    if isinstance(done, StackSegmentation):
        table = done.features(picture.plane, pixel_size=picture.pixel_size)
        classes = next((p.weights["classes"] for p in done.planes.values()), "nucleus").split("\n")
        planes = [(index, plane.instances) for index, plane in done.planes.items()]
        told["planes"] = len(planes)
        return Outcome(done.labels, done.axes, planes, done.settings.channel, classes, table, told)
    table = done.features(picture.plane(()), pixel_size=picture.pixel_size)
    classes = done.weights["classes"].split("\n")
    planes = [((), done.instances)]
    return Outcome(done.instances, "YX", planes, done.settings.channel, classes, table, told)


def write_one(
    source: Source, picture: Picture, outcome: Outcome, places: Places, ledger: Ledger
) -> tuple[Record, list[Path]]:
    """Write an image's own files; gives what is to be remembered, and the files.

    Raises
    ------
    UserError
        If a file stands there that no run wrote, or one cannot be written.
    """
    written = places.of(source)
    suffixes = [_suffix(index) for index, _ in outcome.planes]
    ledger.claim([p for suffix in suffixes for p in places.of(source, suffix).values()])
    if "labels" in written:
        write_labels(outcome.labels, written["labels"], axes=outcome.axes, pixel_size=picture.pixel_size)
    if "zarr" in written:
        write_labels_zarr(outcome.labels, written["zarr"], outcome.axes)
    entries, values = [], []
    paths = [p for f, p in written.items() if f in ("labels", "zarr")]
    for suffix, (index, instances) in zip(suffixes, outcome.planes, strict=True):
        own = places.of(source, suffix)
        image = select_channel(picture.plane(index), outcome.channel)
        if "rois" in own:
            write_rois(instances, own["rois"], plane=index[-1] if index else None)
        if "geojson" in own:
            write_geojson(instances, own["geojson"], outcome.classes)
        if "overlay" in own:
            write_image(overlay(np.asarray(image), instances.to_labels()), own["overlay"], result=True)
        paths += [own[f] for f in ("rois", "geojson", "overlay") if f in own]
        entries.append(Entry(source.name + suffix, instances, _with_suffix(source.file_name, suffix)))
        values.append(_intensities(image, instances))
    table = {name: [cell(v) for v in column.tolist()] for name, column in outcome.table.items()}
    told = {**outcome.told, "where": source.where, "stamp": source.stamp()}
    summary = _summary(source.name, outcome.table["area"], entries, values, outcome.reviewed)
    return Record(source.name, entries, table, summary, told), paths


def _with_suffix(file_name: str, plane: str) -> str:
    """A file's name with the number of a plane before its suffix."""
    path = PurePath(file_name)
    return f"{path.stem}{plane}{path.suffix}" if plane else file_name


def _suffix(index: Sequence[int]) -> str:
    return "".join(f"_{i:04}" for i in index)


def _intensities(image: Any, instances: Instances) -> tuple[float, int, float, int]:
    """Sum and number of values inside nuclei, and of those outside, read in bands."""
    height, width = instances.shape
    band = max(1, _BAND_PIXELS // max(1, width))
    total = np.zeros(2)
    count = np.zeros(2, np.int64)
    for top in range(0, height, band):
        rows = slice(top, top + band)
        inside = instances.to_labels(rows) > 0
        pixels = np.asarray(image[rows]).astype(np.float64)
        grey = pixels[..., :3].mean(axis=2) if pixels.ndim == 3 else pixels
        for k, where in enumerate((inside, ~inside)):
            values = grey[where & np.isfinite(grey)]
            total[k] += values.sum()
            count[k] += len(values)
    return float(total[0]), int(count[0]), float(total[1]), int(count[1])


def _summary(
    name: str,
    areas: Any,
    entries: Sequence[Entry],
    values: Sequence[tuple[float, int, float, int]],
    reviewed: tuple[int, bool],
) -> dict[str, Any]:
    """A row of the summary: counts, areas in pixels, mean grey values."""
    inside, pixels, outside, rest = np.sum(np.array(values, float).reshape(-1, 4), axis=0).tolist()
    none = len(areas) == 0
    values_of = (
        name,
        len(entries),
        len(areas),
        "" if none else round(float(np.mean(areas)), 2),
        "" if none else float(np.median(areas)),
        round(pixels / max(1, pixels + rest), 6),
        round(inside / pixels, 4) if pixels else "",
        round(outside / rest, 4) if rest else "",
        reviewed[0],
        "yes" if reviewed[1] else "no",
    )
    return dict(zip(SUMMARY_COLUMNS, values_of, strict=True))


def write_joint(records: Sequence[Record], places: Places, classes: Sequence[str]) -> list[Path]:
    """Write the files that hold all images, and the summary."""
    images = [(e.name, e.instances) for r in records for e in r.entries]
    files = [(e.file_name, e.instances) for r in records for e in r.entries]
    if len({name for name, _ in files}) < len(files):  # of equal names in different folders
        files = [(e.name + PurePath(e.file_name).suffix, e.instances) for r in records for e in r.entries]
    tables = [(r.name, r.features) for r in records]
    joint: dict[str, Callable[[Path], None]] = {
        "rle": lambda path: write_rle_csv(images, path),
        "coco": lambda path: write_coco(files, path, classes),
        "polygons": lambda path: write_coco(files, path, classes, polygons=True),
        "features": lambda path: write_features(tables, path),
    }
    written = [places.out / n for f, n in JOINT_FILES.items() if f in places.formats]
    for name in (f for f in JOINT_FILES if f in places.formats):
        joint[name](places.out / JOINT_FILES[name])
    with written_whole(places.out / SUMMARY) as part, open_csv(part) as file:
        rows = csv.DictWriter(file, SUMMARY_COLUMNS, lineterminator="\n", extrasaction="ignore")
        rows.writeheader()
        rows.writerows({k: harmless(v) for k, v in r.summary.items()} for r in records)
    return [*written, places.out / SUMMARY]
