"""A data set as an endless, reproducible stream of training crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.utils.data
from numpy.typing import NDArray
from torch import Tensor

from napari_deepretina.data.augment import Augmentation, random_crop
from napari_deepretina.data.normalise import eight_bit
from napari_deepretina.data.reading import best_for_labels, readings
from napari_deepretina.data.sample import Dataset
from napari_deepretina.errors import UserError
from napari_deepretina.instances.labels import bounding_boxes
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.targets import Target

SMALLEST = 10
"""Objects with fewer pixels left in a crop are not learnt from."""


@dataclass(frozen=True)
class Batch:
    """(B, 3, S, S) float32 images with the truth of each."""

    images: Tensor
    targets: list[Target]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(self.images.to(device), [t.to(device) for t in self.targets])

    def parts(self, count: int) -> list[Batch]:
        """Equal parts, one after the other."""
        size = len(self.targets) // count
        chunks = torch.split(self.images, size)
        return [Batch(c, self.targets[k * size : (k + 1) * size]) for k, c in enumerate(chunks)]


Crop = tuple[Tensor, Target]


def collate(items: list[Crop | UserError]) -> Batch | UserError:
    """Stack crops into a batch; the first error instead, where a crop could not be made."""
    crops = []
    for item in items:
        if isinstance(item, UserError):
            return item
        crops.append(item)
    return Batch(torch.stack([i for i, _ in crops]), [t for _, t in crops])


class CropStream(torch.utils.data.Dataset[Crop | UserError]):
    """Crop number k is a pure function of (seed, k): the same for any number of workers.

    A round goes through the images as the sampler counts them, in a new order each round.
    Images are laid as the architecture wants them; with `diameter`, the usual one in network pixels, those of
    small or large nuclei may be shown at the size at which inference shows them (`Augmentation.adapt`).
    Decoded ones are kept in memory, normalised, or for Matterport's networks as eight bits that fill 0…1.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        size: int,
        architecture: Architecture,
        augmentation: Augmentation,
        seed: int,
        length: int,
        positions: NDArray[np.int64] | None = None,
        diameter: float = 0,
    ) -> None:
        self._dataset = dataset
        self._positions = np.arange(len(dataset)) if positions is None else positions
        self._size = size
        self._architecture = architecture
        self._augmentation = augmentation
        self._seed = seed
        self._length = length
        self._diameter = diameter
        self._cache: dict[int, tuple[NDArray[np.float16], NDArray[np.int32]]] = {}
        self._class_of: dict[int, NDArray[np.int64]] = {}
        self._complete: dict[int, bool] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Crop | UserError:
        """A crop, or why it could not be made: as a value, for it may come from another process."""
        try:
            return self.crop(number)
        except UserError as error:
            return error
        except OSError as error:
            return UserError(f"an image cannot be read any more: {error}")

    def crop(self, number: int) -> Crop:
        """Crop number k, or an error."""
        lap, place = divmod(number, len(self._positions))
        order = np.random.default_rng([self._seed, 0, lap]).permutation(len(self._positions))
        index = int(self._positions[order[place]])
        image, labels = self._decoded(index)
        rng = np.random.default_rng([self._seed, 1, number])
        base = self._base_scale(labels, number)
        view, ids = random_crop(image.astype(np.float32), labels, self._size, base, self._augmentation, rng)
        return view, target_of(ids, self._class_of[index], complete=self._complete[index])

    def _base_scale(self, labels: NDArray[np.int32], number: int) -> float:
        """The zoom an image is looked at with, or the one for small or large nuclei."""
        usual = self._architecture.usual_scale(min(labels.shape))
        adapt = self._augmentation.adapt
        # A generator of its own: the crop's other draws do not depend on this one.
        if not self._diameter or np.random.default_rng([self._seed, 2, number]).random() >= adapt:
            return usual
        boxes = bounding_boxes(labels)[1]
        if not len(boxes):
            return usual
        typical = float(np.median(np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))))
        return self._architecture.adapted_scale(typical, self._diameter, usual) or usual

    def _decoded(self, index: int) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
        if index not in self._cache:
            sample = self._dataset[index]
            ids, inverse = np.unique(sample.labels, return_inverse=True)
            if len(ids) == 0 or ids[0] != 0:
                ids, inverse = np.concatenate([[0], ids]), inverse + 1
            known = sample.classes or {}
            self._complete[index] = sample.complete
            self._class_of[index] = np.array([0, *(known.get(i, 1) for i in ids[1:].tolist())], np.int64)
            compact = inverse.reshape(sample.labels.shape).astype(np.int32)
            original = self._architecture.is_matterport
            reading = best_for_labels(readings(sample.image), sample.image, compact)
            pixels = eight_bit(sample.image, reading) / 255 if original else reading(sample.image)
            self._cache[index] = pixels.astype(np.float16), compact
        return self._cache[index]


def target_of(
    labels: NDArray[np.int32], class_of: NDArray[np.int64] | None = None, *, complete: bool = True
) -> Target:
    """Truth of a crop: boxes from the label image, slivers left out.

    Parameters
    ----------
    class_of : class of each id; ids from its length on are copies and counted anew. By default every
        object is of class 1.
    complete : whether every object is labelled.
    """
    ids, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    compact = inverse.reshape(labels.shape).astype(np.int32)
    if ids[0] != 0:
        compact, counts = compact + np.int32(1), np.concatenate([[0], counts])
        ids = np.concatenate([[0], ids])
    present, boxes = bounding_boxes(compact)
    keep = counts[present] >= SMALLEST
    classes = np.ones(len(ids), np.int64) if class_of is None else class_of[ids % len(class_of)]
    return Target(
        boxes=torch.from_numpy(boxes[keep].astype(np.float32)),
        classes=torch.from_numpy(classes[present[keep]]),
        ids=torch.from_numpy(present[keep]),
        labels=torch.from_numpy(compact),
        complete=complete,
    )
