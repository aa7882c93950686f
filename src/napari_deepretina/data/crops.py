"""A data set as an endless, reproducible stream of training crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.utils.data
from numpy.typing import NDArray
from torch import Tensor

from napari_deepretina.data.augment import Augmentation, random_crop
from napari_deepretina.data.normalise import normalise
from napari_deepretina.data.sample import Dataset
from napari_deepretina.instances.labels import bounding_boxes
from napari_deepretina.model.targets import Target

SMALLEST = 10
"""Objects with fewer pixels left in a crop are not learnt from."""


@dataclass(frozen=True)
class Batch:
    """(B, 3, S, S) float32 images with the truth of each."""

    images: Tensor
    targets: list[Target]


def collate(items: list[tuple[Tensor, Target]]) -> Batch:
    """Stack crops into a batch."""
    return Batch(torch.stack([i for i, _ in items]), [t for _, t in items])


class CropStream(torch.utils.data.Dataset[tuple[Tensor, Target]]):
    """Crop number k is a pure function of (seed, k): the same for any number of workers.

    Every image comes once in each round of ``len(dataset)`` crops, in a new order each round.
    Decoded images are kept in memory as they were read, normalised only when cropped.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        size: int,
        short_side: int,
        augmentation: Augmentation,
        seed: int,
        length: int,
    ) -> None:
        self._dataset = dataset
        self._size = size
        self._short_side = short_side
        self._augmentation = augmentation
        self._seed = seed
        self._length = length
        self._cache: dict[int, tuple[NDArray[np.float16], NDArray[np.int32]]] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> tuple[Tensor, Target]:
        lap, place = divmod(number, len(self._dataset))
        order = np.random.default_rng([self._seed, 0, lap]).permutation(len(self._dataset))
        image, labels = self._decoded(int(order[place]))
        rng = np.random.default_rng([self._seed, 1, number])
        base = max(1.0, self._short_side / min(labels.shape))
        view, ids = random_crop(image.astype(np.float32), labels, self._size, base, self._augmentation, rng)
        return view, target_of(ids)

    def _decoded(self, index: int) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
        if index not in self._cache:
            sample = self._dataset[index]
            self._cache[index] = normalise(sample.image).astype(np.float16), sample.labels
        return self._cache[index]


def target_of(labels: NDArray[np.int32]) -> Target:
    """Truth of a crop: boxes from the label image, slivers left out, every object of class 1."""
    ids, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    compact = inverse.reshape(labels.shape).astype(np.int32)
    if ids[0] != 0:
        compact, counts = compact + np.int32(1), np.concatenate([[0], counts])
    present, boxes = bounding_boxes(compact)
    keep = counts[present] >= SMALLEST
    return Target(
        boxes=torch.from_numpy(boxes[keep].astype(np.float32)),
        classes=torch.ones(int(keep.sum()), dtype=torch.int64),
        ids=torch.from_numpy(present[keep]),
        labels=torch.from_numpy(compact),
    )
