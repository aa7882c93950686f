"""Image files and label images with matching names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from napari_deepretina.data.files import Tree, decode_image, is_image, stem
from napari_deepretina.data.sample import Sample, checked_sample
from napari_deepretina.errors import UserError

IMAGE_FOLDERS = ("images", "image", "img", "raw")
LABEL_FOLDERS = ("labels", "label", "masks", "mask", "gt", "annotations")


class PairsDataset:
    """``images/x.webp`` with ``labels/x.png``: folders named as usual, files matched by stem.

    Any of the formats of `napari_deepretina.data.files` will do for either side. Files without a partner are
    an error, unless they are to be passed over (`lonely_too`).
    """

    def __init__(self, tree: Tree, *, lonely_too: bool = False) -> None:
        self._tree = tree
        images = self._by_stem(IMAGE_FOLDERS)
        labels = self._by_stem(LABEL_FOLDERS)
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

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        image_name, label_name = self._files[self.names[index]]
        image = decode_image(self._tree.read(image_name), image_name)
        labels = decode_image(self._tree.read(label_name), label_name)
        image = image[..., :3] if image.ndim == 3 else image
        return checked_sample(self.names[index], image, labels)
