"""What a run over many images writes: files for each image, files for all, and a record to go on from."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_deepretina.data.picture import Picture
from napari_deepretina.errors import UserError
from napari_deepretina.export.coco import write_coco
from napari_deepretina.export.features import write_features
from napari_deepretina.export.rle_csv import write_rle_csv
from napari_deepretina.export.rois import write_rois
from napari_deepretina.export.tiff import overlay, write_image, write_labels, write_labels_zarr
from napari_deepretina.files import written_whole
from napari_deepretina.inference.segment import Segmentation, select_channel
from napari_deepretina.inference.sources import Source
from napari_deepretina.inference.stacks import StackSegmentation
from napari_deepretina.instances import Instances, rle

FORMATS = ("labels", "zarr", "rle", "coco", "polygons", "rois", "features", "overlay")

JOINT_FILES = {
    "rle": "submission.csv",
    "coco": "instances.json",
    "polygons": "polygons.json",
    "features": "features.csv",
}
"""Formats that put all images into one file."""
SUMMARY = "summary.csv"
_ENDINGS = {"labels": ".tif", "zarr": ".zarr", "rois": "_rois.zip", "overlay": "_overlay.png"}
_BAND_PIXELS = 2**24


@dataclass(frozen=True)
class Places:
    """Where results go.

    Attributes
    ----------
    out : folder of the joint files, and of all others unless they go beside their images.
    formats : of `FORMATS`.
    beside : put each image's files into its own folder; labels are then called ``<name>_labels``.
    """

    out: Path
    formats: Sequence[str] = ("labels",)
    beside: bool = False

    @property
    def hidden(self) -> Path:
        """What an interrupted run needs to go on."""
        return self.out / ".napari-deepretina"

    def of(self, source: Source, plane: str = "") -> dict[str, Path]:
        """Files of one image, by format; outlines and pictures of a stack are made of each plane."""
        folder = source.folder if self.beside else self.out
        found = {}
        for kind in (f for f in _ENDINGS if f in self.formats):
            whole = kind in ("labels", "zarr")
            ending = "_labels" + _ENDINGS[kind] if self.beside and whole else _ENDINGS[kind]
            found[kind] = folder / f"{source.name}{'' if whole else plane}{ending}"
        return found

    def standing(self, sources: Sequence[Source]) -> list[Path]:
        """Results that are there already."""
        wanted = [p for s in sources for p in self.of(s).values()]
        wanted += [self.out / n for f, n in JOINT_FILES.items() if f in self.formats]
        return [p for p in wanted if p.exists()]


@dataclass(frozen=True)
class Entry:
    """A 2D image with its nuclei: a picture, or one plane of a stack."""

    name: str
    instances: Instances

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        found = self.instances
        return {
            "name": self.name, "shape": list(found.shape), "rle": rle.encode(found),
            "scores": found.scores.tolist(), "classes": found.classes.tolist(), "votes": found.votes.tolist(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Entry:
        """The inverse of `to_json`."""
        height, width = told["shape"]
        found = replace(
            rle.decode(told["rle"], (height, width)),
            scores=np.array(told["scores"], np.float32),
            classes=np.array(told["classes"], np.int32),
            votes=np.array(told["votes"], np.int32),
        )
        return cls(told["name"], found)


@dataclass(frozen=True)
class Record:
    """What is kept of an image that is done: a line of the journal.

    Attributes
    ----------
    name : of the image.
    entries : its 2D images.
    features : columns of its table of nuclei.
    summary : its row of the summary.
    told : what run.json says of it.
    """

    name: str
    entries: list[Entry]
    features: dict[str, list[Any]]
    summary: dict[str, Any]
    told: dict[str, Any]

    def line(self) -> str:
        """As the journal holds it."""
        content = {**self.__dict__, "entries": [e.to_json() for e in self.entries]}
        return json.dumps(content)

    @classmethod
    def from_line(cls, line: str) -> Record:
        """The inverse of `line`; ValueError or KeyError if the line is torn."""
        content = json.loads(line)
        return cls(**{**content, "entries": [Entry.from_json(e) for e in content["entries"]]})


class Journal:
    """Images that are done, one a line, each written when its files are there."""

    def __init__(self, places: Places, key: str) -> None:
        self._path = places.hidden / "done.jsonl"
        self._key = key

    def read(self) -> dict[str, Record]:
        """Records by name; UserError if they were made with other settings or weights."""
        if not self._path.exists():
            return {}
        first, *lines = self._path.read_text("utf-8").splitlines() or [""]
        if first != self._key:
            raise UserError(
                f"{self._path.parent.parent} holds results of other settings or weights; choose another "
                "folder, or pass --overwrite to begin anew"
            )
        records = {}
        for line in lines:
            try:
                record = Record.from_line(line)
            except (ValueError, KeyError, TypeError):
                continue  # the crash tore it
            records[record.name] = record
        return records

    def begin(self) -> None:
        """Forget all."""
        with written_whole(self._path) as part:
            part.write_text(self._key + "\n", "utf-8")

    def add(self, record: Record) -> None:
        """Keep one more."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" + record.line() + "\n")
        except OSError as error:
            raise UserError(f"{self._path} cannot be written: {error.strerror or error}") from None


def write_one(
    source: Source, picture: Picture, done: Segmentation | StackSegmentation, places: Places
) -> tuple[Record, list[Path]]:
    """Write an image's own files; gives what is to be remembered, and the files."""
    stack = isinstance(done, StackSegmentation)
    labels: Any = done.labels if isinstance(done, StackSegmentation) else done.instances
    axes = done.axes if isinstance(done, StackSegmentation) else "YX"
    written = places.of(source)
    if "labels" in written:
        write_labels(labels, written["labels"], axes=axes)
    if "zarr" in written:
        write_labels_zarr(labels, written["zarr"], axes)
    entries, values = [], []
    paths = [p for f, p in written.items() if f in ("labels", "zarr")]
    for index, plane in done.planes.items() if isinstance(done, StackSegmentation) else [((), done)]:
        suffix = "".join(f"_{i:04}" for i in index)
        own = places.of(source, suffix)
        image = select_channel(picture.plane(index), done.settings.channel)
        if "rois" in own:
            write_rois(plane.instances, own["rois"])
        if "overlay" in own:
            write_image(overlay(np.asarray(image), plane.labels), own["overlay"])
        paths += [own[f] for f in ("rois", "overlay") if f in own]
        entries.append(Entry(source.name + suffix, plane.instances))
        values.append(_intensities(image, plane.instances))
    features = done.features()
    summary = _summary(source.name, features["area"], entries, values)
    told = done.provenance()
    about = {"nuclei": len(features["label"]), **told["seconds"], "where": source.where}
    about |= {"notes": told["notes"]} if told["notes"] else {}
    table = {k: v.tolist() for k, v in features.items()}
    if stack:
        about["planes"] = len(entries)
    return Record(source.name, entries, table, summary, about), paths


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
    name: str, areas: Any, entries: Sequence[Entry], values: Sequence[tuple[float, int, float, int]]
) -> dict[str, Any]:
    """A row of the summary: counts, areas in pixels, mean grey values."""
    inside, pixels, outside, rest = np.sum(np.array(values, float).reshape(-1, 4), axis=0).tolist()
    none = len(areas) == 0
    return {
        "image": name,
        "planes": len(entries),
        "nuclei": len(areas),
        "area_mean": "" if none else round(float(np.mean(areas)), 2),
        "area_median": "" if none else float(np.median(areas)),
        "covered": round(pixels / max(1, pixels + rest), 6),
        "intensity_nuclei": round(inside / pixels, 4) if pixels else "",
        "intensity_background": round(outside / rest, 4) if rest else "",
    }


def write_joint(records: Sequence[Record], places: Places, classes: Sequence[str]) -> list[Path]:
    """Write the files that hold all images, and the summary."""
    images = [(e.name, e.instances) for r in records for e in r.entries]
    tables = [(r.name, r.features) for r in records]
    joint: dict[str, Callable[[Path], None]] = {
        "rle": lambda path: write_rle_csv(images, path),
        "coco": lambda path: write_coco(images, path, classes),
        "polygons": lambda path: write_coco(images, path, classes, polygons=True),
        "features": lambda path: write_features(tables, path),
    }
    written = [places.out / n for f, n in JOINT_FILES.items() if f in places.formats]
    for name in (f for f in JOINT_FILES if f in places.formats):
        joint[name](places.out / JOINT_FILES[name])
    if records:
        with (
            written_whole(places.out / SUMMARY) as part,
            part.open("w", newline="", encoding="utf-8") as file,
        ):
            rows = csv.DictWriter(file, list(records[0].summary), lineterminator="\n")
            rows.writeheader()
            rows.writerows(r.summary for r in records)
        written.append(places.out / SUMMARY)
    return written
