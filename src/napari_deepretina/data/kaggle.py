"""The layout of the 2018 Data Science Bowl: ``<id>/images/<id>.png``, ``<id>/masks/*.png``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from napari_deepretina.data.files import Tree, decode_image, is_image
from napari_deepretina.data.sample import Sample, checked_sample
from napari_deepretina.errors import UserError
from napari_deepretina.instances.labels import labels_from_masks


class KaggleDataset:
    """Images with one mask file an object; folders above the ids do not matter.

    Where masks of one image meet, the pixel belongs to the mask that sorts first.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._images: dict[str, str] = {}
        self._masks: dict[str, list[str]] = defaultdict(list)
        for name in tree.names():
            *_, identity, kind, _file = ["", "", *name.split("/")]
            if not is_image(name) or kind not in ("images", "masks") or not identity:
                continue
            if kind == "images":
                self._images.setdefault(identity, name)
            else:
                self._masks[identity].append(name)
        self.names: Sequence[str] = sorted(self._images)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        identity = self.names[index]
        image = self.image(index)
        masks = []
        for name in self._masks[identity]:
            mask = decode_image(self._tree.read(name), name)
            mask = (mask if mask.ndim == 2 else mask.max(axis=2)) > 0
            if mask.shape != image.shape[:2]:
                raise UserError(f"{name} is {mask.shape}, its image {image.shape[:2]}")
            masks.append(mask)
        return checked_sample(identity, image, labels_from_masks(masks, image.shape[:2]))

    def image(self, index: int) -> NDArray[Any]:
        """The image alone, alpha dropped: (H, W) or (H, W, 3)."""
        name = self._images[self.names[index]]
        image = decode_image(self._tree.read(name), name)
        return image[..., :3] if image.ndim == 3 else image
