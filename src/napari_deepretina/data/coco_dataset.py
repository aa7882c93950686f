"""COCO JSON with its images, to learn from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from napari_deepretina.data.coco import read_coco
from napari_deepretina.data.files import read_image, stem
from napari_deepretina.data.sample import Sample, checked_sample
from napari_deepretina.errors import UserError

_BESIDE = (".", "images", "../images", "..")
"""Where images are looked for, seen from the JSON file; also in a folder named as the file."""


class CocoDataset:
    """Images and objects of a COCO JSON file; where objects overlap, the first keeps the pixel.

    Attributes
    ----------
    names : file names without suffix.
    class_names : category names, in order of their ids.
    """

    def __init__(self, path: Path) -> None:
        self._objects = read_coco(path)
        content = json.loads(path.read_text("utf-8"))
        categories = sorted(
            content.get("categories") or [{"id": 1, "name": "nucleus"}], key=lambda c: c["id"]
        )
        self.class_names: Sequence[str] = tuple(str(c["name"]) for c in categories)
        self._class_of = {int(c["id"]): k for k, c in enumerate(categories, start=1)}
        self._files = {stem(name): _find(path, name) for name in self._objects}
        self._file_names = {stem(name): name for name in self._objects}
        self.names: Sequence[str] = sorted(self._files)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        instances = self._objects[self._file_names[name]]
        image = read_image(self._files[name])
        image = image[..., :3] if image.ndim == 3 else image
        sample = checked_sample(name, image, instances.to_labels())
        known = enumerate(instances.classes.tolist(), start=1)
        return Sample(name, sample.image, sample.labels, {i: self._class_of.get(c, 1) for i, c in known})


def _find(json_path: Path, name: str) -> Path:
    folders = [json_path.parent / b for b in _BESIDE] + [json_path.with_suffix("")]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    looked = ", ".join(str(f) for f in folders)
    raise UserError(f"{json_path} names the image {name!r}, which is in none of {looked}")
