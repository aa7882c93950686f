"""Many images, one after the other, each result written as soon as it is there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_deepretina.errors import UserError
from napari_deepretina.export.coco import write_coco
from napari_deepretina.export.features import write_features
from napari_deepretina.export.rle_csv import write_rle_csv
from napari_deepretina.export.rois import write_rois
from napari_deepretina.export.tiff import overlay, write_image, write_labels
from napari_deepretina.files import written_whole
from napari_deepretina.inference.device import resolve_device
from napari_deepretina.inference.segment import Segmentation, segment_steps
from napari_deepretina.inference.settings import SegmentSettings
from napari_deepretina.inference.sources import Source
from napari_deepretina.inference.steps import drain
from napari_deepretina.instances import Instances
from napari_deepretina.model.weights import load_model

FORMATS = ("labels", "rle", "coco", "polygons", "rois", "features", "overlay")

JOINT_FILES = {
    "rle": "submission.csv",
    "coco": "instances.json",
    "polygons": "polygons.json",
    "features": "features.csv",
}
"""Formats that put all images into one file."""


@dataclass
class BatchResult:
    """What came of a batch: (name, nuclei) of each image done, and messages of those skipped."""

    done: list[tuple[str, Instances]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)


def segment_files(
    sources: Sequence[Source],
    out: Path,
    settings: SegmentSettings,
    *,
    formats: Sequence[str] = ("labels",),
    overwrite: bool = False,
    tell: Callable[[str], None] = print,
) -> BatchResult:
    """Segment images into a folder; an image that cannot be read or segmented is skipped.

    Writes ``<name>.tif`` (labels), ``<name>_rois.zip`` (rois), ``<name>_overlay.png`` (overlay),
    ``submission.csv`` (rle), ``instances.json`` (coco), ``polygons.json`` (polygons), ``features.csv``
    (features), and always ``run.json``.

    Raises
    ------
    UserError
        If files stand in the way and `overwrite` is off, the folder cannot be written to, or the
        weights or the device cannot be used.
    """
    _refuse_overwriting(sources, out, formats, overwrite)
    model = load_model(settings.weights, resolve_device(settings.device))
    result, images, last = BatchResult(), {}, None
    tables: list[tuple[str, dict[str, Any]]] = []
    for number, source in enumerate(sources, start=1):
        begun = time.perf_counter()
        try:
            last = drain(segment_steps(source.read(), model, settings))
        except UserError as error:
            result.skipped[source.where] = str(error)
            tell(f"[{number}/{len(sources)}] {source.name}: skipped, {error}")
            continue
        result.written += _write_one(source, last, out, formats)
        result.done.append((source.name, last.instances))
        if "features" in formats:
            tables.append((source.name, last.features()))
        seconds = round(time.perf_counter() - begun, 3)
        images[source.name] = {"nuclei": len(last.instances), "seconds": seconds, **last.seconds}
        tell(f"[{number}/{len(sources)}] {source.name}: {len(last.instances)} nuclei, {seconds:.1f} s")
    classes = model.info.architecture.classes
    joint: dict[str, Callable[[Path], None]] = {
        "rle": lambda path: write_rle_csv(result.done, path),
        "coco": lambda path: write_coco(result.done, path, classes),
        "polygons": lambda path: write_coco(result.done, path, classes, polygons=True),
        "features": lambda path: write_features(tables, path),
    }
    for name in (f for f in JOINT_FILES if f in formats):
        joint[name](out / JOINT_FILES[name])
        result.written.append(out / JOINT_FILES[name])
    _write_run(out, settings, last, images, result.skipped)
    return result


def _paths(source: Source, out: Path, formats: Sequence[str]) -> dict[str, Path]:
    endings = {"labels": ".tif", "rois": "_rois.zip", "overlay": "_overlay.png"}
    return {f: out / f"{source.name}{e}" for f, e in endings.items() if f in formats}


def _refuse_overwriting(
    sources: Sequence[Source], out: Path, formats: Sequence[str], overwrite: bool
) -> None:
    if overwrite:
        return
    wanted = [p for s in sources for p in _paths(s, out, formats).values()]
    wanted += [out / n for f, n in JOINT_FILES.items() if f in formats]
    standing = [p for p in wanted if p.exists()]
    if standing:
        raise UserError(
            f"{len(standing)} results are there already, e.g. {standing[0]}; "
            "choose another folder or pass --overwrite"
        )


def _write_one(source: Source, segmentation: Segmentation, out: Path, formats: Sequence[str]) -> list[Path]:
    paths = _paths(source, out, formats)
    if "labels" in paths:
        write_labels(segmentation.labels, paths["labels"])
    if "rois" in paths:
        write_rois(segmentation.instances, paths["rois"])
    if "overlay" in paths:
        image = np.asarray(source.read())
        channel = segmentation.settings.channel
        shown = image if channel is None or image.ndim == 2 else image[..., channel]
        write_image(overlay(shown, segmentation.labels), paths["overlay"])
    return list(paths.values())


def _write_run(
    out: Path,
    settings: SegmentSettings,
    last: Segmentation | None,
    images: dict[str, Any],
    skipped: dict[str, str],
) -> None:
    run = last.provenance() if last else {"settings": settings.model_dump(mode="json")}
    for single in ("seconds", "scale"):
        run.pop(single, None)
    with written_whole(out / "run.json") as part:
        part.write_text(json.dumps({**run, "images": images, "skipped": skipped}, indent=2), "utf-8")
