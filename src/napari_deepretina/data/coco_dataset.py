"""COCO JSON with its images, to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_deepretina.data.coco import CocoFile
from napari_deepretina.data.files import read_image, stem
from napari_deepretina.data.sample import Sample, checked_sample
from napari_deepretina.errors import UserError

_BESIDE = (".", "images", "../images", "..")
"""Where images are looked for, seen from the JSON file; also in a folder named as the file."""


class CocoDataset:
    """Images and objects of a COCO JSON file; where objects overlap, the first keeps the pixel.

    Objects are decoded when an image is asked for. Crowds (``iscrowd``) are not learnt from.

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

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        instances = self._file.objects(self._file_names[name], crowds=False)
        image = read_image(self._images[name])
        image = image[..., :3] if image.ndim == 3 else image
        sample = checked_sample(name, image, instances.to_labels())
        known = enumerate(instances.classes.tolist(), start=1)
        return Sample(name, sample.image, sample.labels, {i: self._class_of.get(c, 1) for i, c in known})


def annotation_files(folder: Path) -> tuple[Path, Path] | None:
    """``annotations/instances_train*.json`` and ``…_val*.json`` of a COCO folder, the newest years."""
    found = [sorted((folder / "annotations").glob(f"instances_{part}*.json")) for part in ("train", "val")]
    return (found[0][-1], found[1][-1]) if all(found) else None


def _find(json_path: Path, name: str) -> Path:
    folders = [json_path.parent / b for b in _BESIDE] + [json_path.with_suffix("")]
    part = json_path.stem.removeprefix("instances_")  # COCO's own layout
    folders.append(json_path.parent.parent / part)
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    looked = ", ".join(str(f) for f in folders)
    raise UserError(f"{json_path} names the image {name!r}, which is in none of {looked}")
