"""COCO JSON with its images, to learn from."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_deepretina.data.coco import CocoFile
from napari_deepretina.data.files import read_image, stem
from napari_deepretina.data.sample import Annotations, Sample, checked_sample
from napari_deepretina.errors import UserError
from napari_deepretina.instances import Instances
from napari_deepretina.instances.labels import LabelImage

_BESIDE = (".", "images", "../images", "..")
"""Where images are looked for, seen from the JSON file; also in a folder named as the file."""


class CocoDataset:
    """Images and objects of a COCO JSON file, whole where they overlap; crowds (``iscrowd``) stand apart.

    Objects are decoded when an image is asked for.

    Attributes
    ----------
    names : file names without suffix.
    class_names : category names, in order of their ids.
    """

    def __init__(self, path: Path) -> None:
        self._file = CocoFile(path)
        self.class_names: Sequence[str] = tuple(self._file.categories.values())
        self._class_of = {number: k for k, number in enumerate(self._file.categories, start=1)}
        self._images = {stem(name): _find(path, file) for name, file in self._file.file_names.items()}
        self._file_names = {stem(name): name for name in self._file.shapes}
        self.names: Sequence[str] = sorted(self._images)

    def __len__(self) -> int:
        return len(self.names)

    def annotations(self, index: int) -> Annotations:
        """What the file itself says of an image's objects, with the numbers of our classes."""
        name = self._file_names[self.names[index]]
        told = self._file.annotations(name)
        own = [{**a, "category_id": self._class_of.get(a.get("category_id", 1), 1)} for a in told]
        return Annotations(self._file.shapes[name], own)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        instances, crowds = (self._file.objects(self._file_names[name], crowds=c) for c in (False, True))
        image = read_image(self._images[name])
        image = image[..., :3] if image.ndim == 3 else image
        sample = checked_sample(name, image, _seen(instances))
        planes = instances.to_planes()
        known = enumerate(instances.classes.tolist(), start=1)
        return replace(
            sample,
            classes={i: self._class_of.get(c, 1) for i, c in known},
            planes=planes if len(planes) > 1 else None,
            crowds=crowds.to_labels() if len(crowds) else None,
        )


def _seen(instances: Instances) -> LabelImage:
    """(H, W) labels with smaller objects over larger ones, so that none is out of sight."""
    labels = np.zeros(instances.shape, np.int32)
    for k in np.argsort(-instances.areas, kind="stable").tolist():
        x0, y0, x1, y1 = instances.boxes[k].tolist()
        labels[y0:y1, x0:x1][instances.masks[k]] = instances.ids[k]
    return labels


def annotation_files(folder: Path) -> tuple[list[Path], list[Path]] | None:
    """Annotations to train on and to validate on of a COCO folder, of the newest year that has both.

    Where ``val`` is cut into ``minival`` and ``valminusminival``, as people did in 2014, the former is for
    validation and the latter for training.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in (folder / "annotations").glob("instances_*.json"):
        if match := re.fullmatch(r"instances_(train|val|minival|valminusminival)(\d*)", path.stem):
            found.setdefault(match[2], {})[match[1]] = path
    for _, parts in sorted(found.items(), reverse=True):
        train = [parts[k] for k in ("train", "valminusminival") if k in parts]
        val = [parts[k] for k in ("minival", "val") if k in parts][:1]
        if "train" in parts and val:
            return train, val
    return None


def _find(json_path: Path, name: str) -> Path:
    folders = [json_path.parent / b for b in _BESIDE] + [json_path.with_suffix("")]
    part = json_path.stem.removeprefix("instances_")  # COCO's own layout
    folders += [json_path.parent.parent / p for p in (part, re.sub("minival|valminusminival", "val", part))]
    home = json_path.absolute().parent.parent
    for folder in folders:
        found = Path(os.path.normpath((folder / name).absolute()))  # links to where images are kept may leave
        if not found.is_relative_to(home):
            raise UserError(f"{json_path} names the image {name!r}, which lies outside {home}")
        if found.is_file():
            return found
    looked = ", ".join(str(f) for f in folders)
    raise UserError(f"{json_path} names the image {name!r}, which is in none of {looked}")
