"""Toy shapes of several classes: a first training example, and a test of everything that counts classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from skimage.draw import disk, polygon, rectangle

from napari_deepretina.data.sample import Sample


class ShapesDataset:
    """Coloured circles, squares and triangles on a coloured ground; nothing overlaps.

    Attributes
    ----------
    names : in order.
    class_names : of classes 1, 2, 3.
    """

    class_names = ("circle", "square", "triangle")

    def __init__(self, length: int = 200, *, side: int = 128, seed: int = 0) -> None:
        self.names: Sequence[str] = [f"shapes-{seed}-{i:04d}" for i in range(length)]
        self._side, self._seed = side, seed

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self._seed, index, 11])
        side = self._side
        image = np.empty((side, side, 3), np.uint8)
        image[:] = rng.integers(0, 256, 3)
        labels = np.zeros((side, side), np.int32)
        classes: dict[int, int] = {}
        for _ in range(int(rng.integers(2, 7))):
            kind = int(rng.integers(1, 4))
            rows, columns = _pixels(kind, side, rng)
            if labels[rows, columns].any() or not len(rows):
                continue
            label = len(classes) + 1
            classes[label] = kind
            labels[rows, columns] = label
            image[rows, columns] = rng.integers(0, 256, 3)
        return Sample(self.names[index], image, labels, classes)


def _pixels(kind: int, side: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows, columns) of one shape inside a square image."""
    radius = int(rng.integers(side // 12, side // 6 + 1))
    y, x = rng.integers(radius, side - radius, 2).tolist()
    if kind == 1:
        found = disk((y, x), radius, shape=(side, side))
    elif kind == 2:
        found = rectangle((y - radius, x - radius), (y + radius, x + radius), shape=(side, side))
    else:
        corners = np.array([y - radius, y + radius, y + radius]), np.array([x, x - radius, x + radius])
        found = polygon(*corners, shape=(side, side))
    return np.asarray(found[0]).ravel(), np.asarray(found[1]).ravel()
