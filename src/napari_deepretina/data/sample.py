"""One annotated image, and what every data set answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_deepretina.errors import UserError
from napari_deepretina.instances.labels import LabelImage, fitting_int32


@dataclass(frozen=True)
class Sample:
    """An image with its truth.

    Attributes
    ----------
    name : unique in its data set.
    image : (H, W) or (H, W, 3), any real dtype.
    labels : (H, W) int32, 0 background.
    classes : class of each id, 1…C; ids that are not in it are of class 1.
    complete : whether every nucleus is labelled; where some are not, training punishes confident detections
        away from all labels less.
    planes : (K, H, W) int32, the same objects where some overlap: each is whole in one of the planes. None
        where none overlap.
    crowds : (H, W) int32, regions that stand for many objects, which are neither learnt nor counted; None
        where there are none.
    annotated : classes that the data set tells apart, where it is joined to one that tells more; None for
        all.
    """

    name: str
    image: NDArray[Any]
    labels: LabelImage
    classes: Mapping[int, int] | None = None
    complete: bool = True
    planes: NDArray[np.int32] | None = None
    crowds: LabelImage | None = None
    annotated: frozenset[int] | None = None

    @property
    def stack(self) -> NDArray[np.int32]:
        """(K, H, W) int32: all objects whole; one plane where none overlap."""
        return self.labels[None] if self.planes is None else self.planes

    def class_of(self, label: int) -> int:
        """Class of an id, 1…C."""
        return (self.classes or {}).get(label, 1)


@dataclass(frozen=True)
class Annotations:
    """Objects of an image as a COCO file has them, to be scored against exactly so.

    Attributes
    ----------
    shape : (height, width) of the image.
    objects : COCO's annotations, with classes 1…C as ``category_id``.
    """

    shape: tuple[int, int]
    objects: list[dict[str, Any]]


def annotations_of(dataset: object, index: int) -> Annotations | None:
    """What the file behind a sample says of its objects, where it is a COCO file."""
    told = getattr(dataset, "annotations", None)
    found: Annotations | None = told(index) if callable(told) else None
    return found


class Dataset(Protocol):
    """Anything with names and samples can be trained on and scored against.

    With several classes, ``class_names`` names classes 1, 2, …, and samples tell the class of each id.
    ``title``, where there is one, is what weights trained on it say that they know.

    Ten lines make one's own::

        class Mine:
            names = ["a", "b"]

            def __len__(self):
                return len(self.names)

            def __getitem__(self, index):
                image, labels = load(self.names[index])
                return Sample(self.names[index], image, labels.astype("int32"))
    """

    @property
    def names(self) -> Sequence[str]:
        """Unique names, in order."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Subset:
    """Some samples of a data set, chosen by name, in the order of the names given.

    With `complete` false, samples say that some of their nuclei are unlabelled.
    """

    def __init__(self, dataset: Dataset, names: Sequence[str], *, complete: bool = True) -> None:
        where = {name: i for i, name in enumerate(dataset.names)}
        missing = [n for n in names if n not in where]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(names)} chosen images are not in the data, e.g. "
                f"{missing[0]!r}: does the split belong to it?"
            )
        self.names: Sequence[str] = list(names)
        self.class_names = tuple(getattr(dataset, "class_names", ("nucleus",)))
        self._dataset = dataset
        self._complete = complete
        self._index = [where[n] for n in names]

    def __len__(self) -> int:
        return len(self.names)

    def annotations(self, index: int) -> Annotations | None:
        """See `annotations_of`."""
        return annotations_of(self._dataset, self._index[index])

    def __getitem__(self, index: int) -> Sample:
        sample = self._dataset[self._index[index]]
        return sample if self._complete else replace(sample, complete=False)


def checked_sample(name: str, image: NDArray[Any], labels: NDArray[Any]) -> Sample:
    """A sample whose image and labels fit together, or a UserError that says what does not.

    Labels may have axes of one position, equal channels, or be whole numbers kept as floating-point ones. A
    mask, where all objects have the same value 255 or True, is taken apart into its connected pieces; ids
    that int32 cannot hold are renumbered.
    """
    labels = _one_plane(name, labels)
    if image.shape[:2] != labels.shape:
        raise UserError(f"image and labels of {name!r} differ in size: {image.shape[:2]} and {labels.shape}")
    if labels.dtype.kind == "f":
        if not (np.isfinite(labels).all() and (labels == np.floor(labels)).all()):
            raise UserError(f"labels of {name!r} hold numbers that are not whole; they need integer ids")
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iub":
        raise UserError(f"labels of {name!r} have dtype {labels.dtype}; they need an integer one")
    if is_mask(labels):
        return Sample(name, image, ndimage.label(labels)[0].astype(np.int32))
    try:
        return Sample(name, image, fitting_int32(labels)[0].astype(np.int32))
    except UserError as error:
        raise UserError(f"labels of {name!r}: {error}") from None


def is_mask(labels: NDArray[Any]) -> bool:
    """Whether a label image tells objects from background only: 0 and 255, or False and True."""
    if labels.dtype == bool:
        return True
    return bool(labels.size) and labels.max() == 255 and bool(((labels == 0) | (labels == 255)).all())


def _one_plane(name: str, labels: NDArray[Any]) -> NDArray[Any]:
    """(H, W) of labels with axes of one position, or with channels that hold the same."""
    squeezed = labels.reshape([n for n in labels.shape if n > 1]) if labels.ndim > 2 else labels
    if squeezed.ndim == 3 and squeezed.shape[2] in (3, 4) and (squeezed[..., :3] == squeezed[..., :1]).all():
        squeezed = squeezed[..., 0]
    if squeezed.ndim != 2:
        raise UserError(f"labels of {name!r} have shape {labels.shape}; they need one channel")
    return squeezed
