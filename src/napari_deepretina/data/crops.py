"""A data set as an endless, reproducible stream of training crops."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
import torch.utils.data
from numpy.typing import NDArray
from torch import Tensor

from napari_deepretina.data.augment import random_crop
from napari_deepretina.data.augmentation import Augmentation
from napari_deepretina.data.hook import Hook, apply_hook
from napari_deepretina.data.normalise import eight_bit
from napari_deepretina.data.reading import best_for_labels, readings
from napari_deepretina.data.sample import Dataset
from napari_deepretina.errors import UserError
from napari_deepretina.heap import release
from napari_deepretina.instances.labels import bounding_boxes, ranked
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


@dataclass(frozen=True)
class Truth:
    """A decoded image with its truth, ready to be cropped.

    Attributes
    ----------
    pixels : (H, W, 3) float16, normalised; for Matterport's networks eight bits that fill 0…1.
    labels : (H, W) int32 with ids 1…N, or (K, H, W) where objects overlap or there are crowds.
    crowded : whether the last plane holds crowds.
    class_of : (N + 1,) int64, class of each id, 0 for background.
    complete, annotated : as in `Sample`.
    """

    pixels: NDArray[np.float16]
    labels: NDArray[np.int32]
    crowded: bool
    class_of: NDArray[np.int64]
    complete: bool
    annotated: frozenset[int] | None

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        return self.pixels.nbytes + self.labels.nbytes


RELEASE_EVERY = 16
"""Images after whose decoding the heap is given back: what they took lies between what is kept."""


class Decoded:
    """Images of a data set as a network is shown them; the latest stay in memory, within a bound.

    Attributes
    ----------
    architecture : whose images these are.
    diameter : the usual one in network pixels; given, images of small or large nuclei may be shown at the
        size at which inference shows them (`Augmentation.adapt`).
    """

    def __init__(
        self, dataset: Dataset, architecture: Architecture, *, diameter: float = 0, cache_gb: float = 1.0
    ) -> None:
        self._dataset = dataset
        self.architecture = architecture
        self.diameter = diameter
        self._most = cache_gb * 1e9
        self._kept: OrderedDict[int, Truth] = OrderedDict()
        self._bytes = self._decoded = 0

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Truth:
        truth = self._kept.pop(index, None)
        if truth is None:
            truth = self._decode(index)
            self._bytes += truth.nbytes
            self._decoded += 1
            if self._decoded % RELEASE_EVERY == 0:
                release()
        self._kept[index] = truth
        while self._bytes > self._most and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return truth

    def _decode(self, index: int) -> Truth:
        sample = self._dataset[index]
        ids, inverse, _ = ranked(sample.stack)
        if len(ids) == 0 or ids[0] != 0:
            ids, inverse = np.concatenate([[0], ids]), inverse + 1
        compact = inverse.astype(np.int32)
        reading = best_for_labels(readings(sample.image), sample.image, sample.labels)
        original = self.architecture.is_matterport
        pixels = eight_bit(sample.image, reading) / 255 if original else reading(sample.image)
        crowded = sample.crowds is not None
        if sample.crowds is not None:
            compact = np.concatenate([compact, sample.crowds[None]])
        return Truth(
            pixels.astype(np.float16),
            compact if len(compact) > 1 else compact[0],
            crowded,
            np.array([0, *(sample.class_of(i) for i in ids[1:].tolist())], np.int64),
            sample.complete,
            sample.annotated,
        )

    def base_scale(self, truth: Truth, *, adapted: bool) -> float:
        """The zoom an image is looked at with; adapted, the one for small or large nuclei."""
        labels = truth.labels if truth.labels.ndim == 2 else truth.labels[0]
        usual = self.architecture.usual_scale(labels.shape)
        if not adapted or not labels.any():
            return usual
        boxes = bounding_boxes(labels)[1]
        typical = float(np.median(np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))))
        return self.architecture.adapted_scale(typical, self.diameter, usual) or usual


class CropStream(torch.utils.data.Dataset[Crop | UserError]):
    """Crop number k is a pure function of (seed, k): the same for any number of workers.

    A round goes through the images as the sampler counts them, in a new order each round.

    Parameters
    ----------
    images : what crops are cut from.
    size : side of a crop in pixels.
    positions : images of a round, copies included; by default each once.
    hook : one's own augmentation, called last with the crop and its labels; see `apply_hook`.
    """

    def __init__(
        self,
        images: Decoded,
        *,
        size: int,
        augmentation: Augmentation,
        seed: int,
        length: int,
        positions: NDArray[np.int64] | None = None,
        hook: Hook | None = None,
    ) -> None:
        self._images = images
        self._positions = np.arange(len(images)) if positions is None else positions
        self._size = size
        self._augmentation = augmentation
        self._seed = seed
        self._length = length
        self._hook = hook

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
        truth = self._images[int(self._positions[order[place]])]
        # A generator of its own: the crop's other draws do not depend on this one.
        drawn = np.random.default_rng([self._seed, 2, number]).random()
        adapted = bool(self._images.diameter) and drawn < self._augmentation.adapt
        base = self._images.base_scale(truth, adapted=adapted)
        rng = np.random.default_rng([self._seed, 1, number])
        pixels = truth.pixels.astype(np.float32)
        view, ids = random_crop(pixels, truth.labels, self._size, base, self._augmentation, rng)
        if self._hook is not None:
            view, ids = apply_hook(self._hook, view, ids, rng)
        crowds = None
        if truth.crowded:
            ids, crowds = ids[:-1], ids[-1]
            ids = ids[0] if len(ids) == 1 else ids
        target = target_of(ids, truth.class_of, complete=truth.complete, crowds=crowds)
        target.seed = int(rng.integers(2**31))
        if truth.annotated is not None:
            active = torch.zeros(self._images.architecture.num_classes, dtype=torch.bool)
            active[[0, *truth.annotated]] = True
            target.active = active
        return view, target


def target_of(
    labels: NDArray[np.int32],
    class_of: NDArray[np.int64] | None = None,
    *,
    complete: bool = True,
    crowds: NDArray[np.int32] | None = None,
) -> Target:
    """Truth of a crop: boxes from the label image, slivers left out.

    Parameters
    ----------
    labels : (H, W) int32, or (K, H, W) where objects overlap.
    class_of : class of each id; ids from its length on are copies and counted anew. By default every
        object is of class 1.
    complete : whether every object is labelled.
    crowds : (H, W) int32, regions that stand for many objects.
    """
    ids, inverse, counts = ranked(labels)
    compact = inverse.astype(np.int32)
    if ids[0] != 0:
        compact, counts = compact + np.int32(1), np.concatenate([[0], counts])
        ids = np.concatenate([[0], ids])
    present, boxes = _boxes(compact)
    keep = counts[present] >= SMALLEST
    classes = np.ones(len(ids), np.int64) if class_of is None else class_of[ids % len(class_of)]
    return Target(
        boxes=torch.from_numpy(boxes[keep].astype(np.float32)),
        classes=torch.from_numpy(classes[present[keep]]),
        ids=torch.from_numpy(present[keep]),
        labels=torch.from_numpy(compact),
        complete=complete,
        crowds=None if crowds is None else torch.from_numpy(bounding_boxes(crowds)[1].astype(np.float32)),
    )


def _boxes(labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and boxes of (H, W) or (K, H, W) labels, in rising order of the ids."""
    if labels.ndim == 2:
        return bounding_boxes(labels)
    each = [bounding_boxes(plane) for plane in labels]
    ids = np.concatenate([i for i, _ in each])
    order = np.argsort(ids)
    return ids[order], np.concatenate([b for _, b in each])[order]
