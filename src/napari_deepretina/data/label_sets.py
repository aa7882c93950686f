"""Annotations or predictions by image name, from any of the files that hold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from napari_deepretina.data.coco import read_coco
from napari_deepretina.data.files import decode_labels, is_image, open_tree, stem
from napari_deepretina.data.kaggle import KaggleDataset
from napari_deepretina.data.open import is_kaggle
from napari_deepretina.data.ours import RESULT
from napari_deepretina.data.pairs import LABEL_FOLDERS
from napari_deepretina.data.rle_csv import decode_objects, read_rle_csv, read_shapes
from napari_deepretina.data.sample import checked_sample
from napari_deepretina.errors import UserError
from napari_deepretina.files import expanded
from napari_deepretina.instances.labels import LabelImage

Shape = tuple[int, int]


class LabelSet:
    """Label images by name, read when asked for.

    Attributes
    ----------
    names : in order.
    """

    def __init__(self, names: Sequence[str], read: Callable[[str, Shape | None], LabelImage]) -> None:
        self.names: Sequence[str] = list(names)
        self._read = read

    def labels(self, name: str, shape: Shape | None = None) -> LabelImage:
        """(H, W) int32; an RLE CSV does not know its images' shapes, so they must be given."""
        return self._read(name, shape)


def open_label_set(path: str | Path, like: str | Path | None = None) -> LabelSet:
    """A folder or zip of label images, the Kaggle layout, an RLE CSV or COCO JSON.

    A COCO list of results goes with the COCO file that has its images, `like`. In a folder with a
    sub-folder for labels (``labels``, ``masks`` …) that one is taken.

    Raises
    ------
    UserError
        If the path holds nothing of the kind.
    """
    path = expanded(path)
    if path.suffix.lower() == ".csv":
        return _from_rle(path)
    if path.suffix.lower() == ".json":
        instances = {stem(n): i for n, i in read_coco(path, _json(like)).items()}
        return LabelSet(list(instances), lambda name, _: instances[name].to_labels())
    tree = open_tree(path)
    names = [n for n in tree.names() if is_image(n)]
    if is_kaggle(names):
        kaggle = KaggleDataset(tree)
        where = {n: i for i, n in enumerate(kaggle.names)}
        return LabelSet(kaggle.names, lambda name, _: kaggle[where[name]].labels)
    chosen = [n for n in names if "/" in n and n.split("/")[-2].lower() in LABEL_FOLDERS]
    chosen = chosen or [n for n in names if "/" not in n and not n.endswith("_overlay.png")]
    ours = [n for n in chosen if n.endswith(f"{RESULT}.tif")]  # results beside their images
    files = {stem(n).removesuffix(RESULT if ours else ""): n for n in ours or chosen}
    if not files:
        raise UserError(f"{path} holds no label images")

    def read(name: str, _: Shape | None) -> LabelImage:
        labels = decode_labels(tree.read(files[name]), files[name])
        return checked_sample(name, labels, labels).labels

    return LabelSet(sorted(files), read)


def _json(like: str | Path | None) -> Path | None:
    path = None if like is None else expanded(like)
    return path if path is not None and path.suffix.lower() == ".json" else None


def _from_rle(path: Path) -> LabelSet:
    strings, shapes = read_rle_csv(path), read_shapes(path)

    def read(name: str, shape: Shape | None) -> LabelImage:
        shape = shape or shapes.get(name)
        if shape is None:
            raise UserError(
                f"{path} does not tell how large {name!r} is: compare it with label images, or give it "
                "columns Height and Width"
            )
        return decode_objects(strings[name], shape, name).to_labels()

    return LabelSet(list(strings), read)
