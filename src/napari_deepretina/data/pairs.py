"""Image files and label images with matching names."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import PurePosixPath

import numpy as np

from napari_deepretina.data.files import Tree, decode_labels, is_image, stem
from napari_deepretina.data.picture import decode_picture
from napari_deepretina.data.sample import Sample, checked_sample
from napari_deepretina.errors import UserError

IMAGE_FOLDERS = ("images", "image", "img", "raw")
LABEL_FOLDERS = ("labels", "label", "masks", "mask", "gt", "annotations")
LABEL_ENDINGS = ("_masks", "_mask", "_labels", "_label", "_nuclei")
"""What label images are called after their images' names, in a folder of their own or beside them."""


class PairsDataset:
    """``images/x.webp`` with ``labels/x.png``, or ``x.tif`` with ``x_masks.tif`` beside it.

    Folders are named as usual, files matched by stem, with or without one of `LABEL_ENDINGS`. Any of the
    formats of `napari_deepretina.data.files` will do for either side. Files without a partner are an error,
    unless they are to be passed over (`lonely_too`).
    """

    def __init__(self, tree: Tree, *, lonely_too: bool = False) -> None:
        self._tree = tree
        images = self._by_stem(IMAGE_FOLDERS)
        labels = _without_endings(self._by_stem(LABEL_FOLDERS), images)
        if not images and not labels:
            images, labels = self._side_by_side()
        lonely = sorted(images.keys() ^ labels.keys())
        if lonely and images and labels and not lonely_too:
            side = "labels" if lonely[0] in images else "image"
            raise UserError(
                f"{tree.path}: {len(lonely)} files have no partner, e.g. {lonely[0]!r} has no {side}"
            )
        self._files = {s: (images[s], labels[s]) for s in images.keys() & labels.keys()}
        self.names: Sequence[str] = sorted(self._files)

    def _by_stem(self, folders: tuple[str, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in self._tree.names():
            if is_image(name) and PurePosixPath(name).parent.name.lower() in folders:
                if stem(name) in found:
                    raise UserError(f"{self._tree.path}: {found[stem(name)]} and {name} have the same stem")
                found[stem(name)] = name
        return found

    def _side_by_side(self) -> tuple[dict[str, str], dict[str, str]]:
        """Images of one folder, and the label images beside them."""
        files = {stem(n): n for n in self._tree.names() if is_image(n) and "/" not in n}
        labels = {s: n for s, n in files.items() if s.endswith(LABEL_ENDINGS)}
        images = {s: n for s, n in files.items() if s not in labels}
        return (images, _without_endings(labels, images)) if labels else ({}, {})

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        image_name, label_name = self._files[self.names[index]]
        picture = decode_picture(self._tree.read(image_name), image_name)
        if picture.extent:
            raise UserError(f"{self._tree.path}/{image_name} is a stack of planes: give one file a plane")
        image = np.asarray(picture.plane())
        labels = decode_labels(self._tree.read(label_name), label_name)
        return checked_sample(self.names[index], image, labels)


def _without_endings(labels: dict[str, str], images: Container[str]) -> dict[str, str]:
    """Label files by the stem of their image."""
    found = {}
    for own, name in labels.items():
        short = next((own.removesuffix(e) for e in LABEL_ENDINGS if own.endswith(e)), own)
        found[short if own not in images and short in images else own] = name
    return found
