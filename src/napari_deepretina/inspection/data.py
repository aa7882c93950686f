"""What a data set holds, what is odd in it, and what training really sees of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_deepretina.data.augment import flat
from napari_deepretina.data.crops import CropStream, Decoded, collate
from napari_deepretina.data.files import is_image, open_tree, stem
from napari_deepretina.data.pairs import IMAGE_FOLDERS, LABEL_FOLDERS
from napari_deepretina.data.sample import Dataset
from napari_deepretina.data.samplers import round_of
from napari_deepretina.errors import UserError
from napari_deepretina.files import expanded
from napari_deepretina.instances.labels import bounding_boxes, sizes_of
from napari_deepretina.training.judge import typical_diameter
from napari_deepretina.training.recipe import Recipe

TINY = 9
"""Nuclei with fewer pixels are told."""


@dataclass(frozen=True)
class Oddity:
    """Something in a data set that a person should look at.

    Attributes
    ----------
    kind : ``labels without image``, ``image without labels``, ``unreadable``, ``empty``, ``tiny nucleus`` or
        ``several pieces``.
    name : of the sample or file.
    label : id, 0 where it is about the whole image.
    position : (y, x) of the nucleus in its image.
    told : a few words.
    """

    kind: str
    name: str
    label: int = 0
    position: tuple[int, int] = (0, 0)
    told: str = ""


@dataclass
class Overview:
    """Numbers of a data set."""

    images: int = 0
    nuclei: int = 0
    sizes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    per_image: list[int] = field(default_factory=list)
    diameters: list[float] = field(default_factory=list)
    intensities: list[float] = field(default_factory=list)
    oddities: list[Oddity] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values: totals, sizes, and the quartiles of what varies."""
        varying: dict[str, list[Any]] = {
            "per_image": self.per_image,
            "diameters": self.diameters,
            "intensities": self.intensities,
        }
        return {
            "images": self.images,
            "nuclei": self.nuclei,
            "sizes": {"×".join(map(str, s)): n for s, n in self.sizes.most_common()},
            **{k: _quartiles(v) for k, v in varying.items()},
            "oddities": [vars(o) for o in self.oddities],
        }


def overview(dataset: Dataset) -> Overview:
    """Read a data set once: its numbers, and what is odd.

    Diameters are those of discs of equal area, in pixels; intensities are mean grey values of the images, in
    0…255.
    """
    told = Overview()
    for index, name in enumerate(dataset.names):
        try:
            sample = dataset[index]
        except UserError as error:
            told.oddities.append(Oddity("unreadable", name, told=str(error)))
            continue
        told.images += 1
        told.sizes[sample.labels.shape] += 1
        scale = 255.0 / 65535 if sample.image.dtype == np.uint16 else 1.0
        told.intensities.append(float(sample.image.mean()) * scale)
        areas = sizes_of(sample.labels)[1]
        told.nuclei += len(areas)
        told.per_image.append(len(areas))
        told.diameters += (2 * np.sqrt(areas / np.pi)).tolist()
        told.oddities += _odd(name, sample.labels)
    return told


def _odd(name: str, labels: NDArray[np.int32]) -> list[Oddity]:
    found = []
    if not labels.any():
        return [Oddity("empty", name, told="no nucleus is labelled")]
    for label, (x0, y0, x1, y1) in zip(*(a.tolist() for a in bounding_boxes(labels)), strict=True):
        window = slice(y0, y1), slice(x0, x1)
        mask = labels[window] == label
        rows, columns = np.nonzero(mask)
        middle = len(rows) // 2
        place = (window[0].start + int(rows[middle]), window[1].start + int(columns[middle]))
        if len(rows) < TINY:
            found.append(Oddity("tiny nucleus", name, label, place, f"{len(rows)} pixels"))
        pieces = ndimage.label(mask, np.ones((3, 3)))[1]
        if pieces > 1:
            found.append(Oddity("several pieces", name, label, place, f"{pieces} pieces"))
    return found


def unpaired(path: str | Path) -> list[Oddity]:
    """Label files without an image and images without labels, in a folder or zip of pairs."""
    path = expanded(path)
    if path.suffix.lower() == ".json" or not path.exists():
        return []
    names = [n for n in open_tree(path).names() if is_image(n)]
    labels = {stem(n): n for n in names if "/" in n and n.split("/")[-2].lower() in LABEL_FOLDERS}
    images = {stem(n): n for n in names if "/" in n and n.split("/")[-2].lower() in IMAGE_FOLDERS}
    if not labels or any(len(n.split("/")) > 2 and n.split("/")[-3] == stem(n) for n in images.values()):
        return []  # another layout
    lonely = [Oddity("labels without image", labels[n]) for n in sorted(set(labels) - set(images))]
    return lonely + [Oddity("image without labels", images[n]) for n in sorted(set(images) - set(labels))]


@dataclass(frozen=True)
class SeenCrop:
    """What training is shown: (S, S, 3) float32 in 0…1, (N, 4) xyxy boxes, (S, S) labels."""

    image: NDArray[np.float32]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]


def crops_of(dataset: Dataset, recipe: Recipe, *, stage: int = 0, count: int = 12) -> list[SeenCrop]:
    """The first crops that a stage of a recipe would learn from."""
    chosen = recipe.stages[stage]
    diameter = typical_diameter(dataset, recipe.architecture) if chosen.augmentation.adapt else 0
    stream = CropStream(
        Decoded(dataset, recipe.architecture, diameter=diameter),
        size=chosen.crop,
        augmentation=chosen.augmentation,
        seed=recipe.seed * 1009 + stage,
        length=count,
        positions=round_of(dataset, chosen.sampler),
    )
    seen = []
    for number in range(count):
        batch = collate([stream[number]])
        if isinstance(batch, UserError):
            raise batch
        target = batch.targets[0]
        pixels = batch.images[0].permute(1, 2, 0).clamp(0, 1).numpy()
        seen.append(SeenCrop(pixels, target.boxes.numpy(), flat(target.labels.numpy())))
    return seen


def _quartiles(values: list[Any]) -> dict[str, float]:
    if not values:
        return {}
    told = np.percentile(values, [0, 25, 50, 75, 100]).tolist()
    return dict(zip(("least", "lower quartile", "median", "upper quartile", "most"), told, strict=True))
