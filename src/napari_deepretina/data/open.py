"""From a path to a data set, by looking at what lies there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_deepretina.data.coco_dataset import CocoDataset, annotation_files
from napari_deepretina.data.files import is_image, open_tree, stem
from napari_deepretina.data.joined import JoinedDataset
from napari_deepretina.data.kaggle import KaggleDataset
from napari_deepretina.data.pairs import PairsDataset
from napari_deepretina.data.sample import Dataset
from napari_deepretina.data.shapes import ShapesDataset
from napari_deepretina.data.split import Split, find_split
from napari_deepretina.errors import UserError
from napari_deepretina.files import expanded

TOY_SHAPES = "toy-shapes"


def is_kaggle(names: Sequence[str]) -> bool:
    """Whether some image lies at ``<id>/images/<id>.<suffix>``, the mark of the Kaggle layout."""
    parts = (n.split("/") for n in names if is_image(n))
    return any(len(p) >= 3 and p[-2] == "images" and p[-3] == stem(p[-1]) for p in parts)


def open_dataset(path: str | Path, *, lonely_too: bool = False) -> tuple[Dataset, Split | None]:
    """Open annotated images: pairs or the Kaggle layout in a folder or a zip, COCO JSON or its folder.

    With `lonely_too`, images without labels and labels without image are passed over. The name ``toy-shapes``
    stands for generated shapes of three classes.

    Returns
    -------
    the data set, and the split that lies in it or beside it, if any.

    Raises
    ------
    UserError
        If nothing annotated is found.
    """
    if str(path) == TOY_SHAPES:
        return ShapesDataset(), None
    path = expanded(path)
    if path.suffix.lower() == ".json" and path.is_file():
        return CocoDataset(path), None
    if path.is_dir() and (files := annotation_files(path)):
        parts = [CocoDataset(file) for file in (*files[0], *files[1])]
        joined, count = JoinedDataset(parts), sum(map(len, parts[: len(files[0])]))
        return joined, Split(
            tuple(joined.names[:count]), tuple(joined.names[count:]), str(path / "annotations")
        )
    tree = open_tree(path)
    dataset: Dataset = (
        KaggleDataset(tree) if is_kaggle(tree.names()) else PairsDataset(tree, lonely_too=lonely_too)
    )
    if not len(dataset):
        raise UserError(
            f"{path} holds no annotated images; expected images/x.png with labels/x.png, or "
            "<id>/images/<id>.png with <id>/masks/*.png"
        )
    return dataset, find_split(tree)
