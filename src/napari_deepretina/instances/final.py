"""Instances with their final masks, each kept inside its own box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.instances.labels import LabelImage, bounding_boxes

_UNSET: Any = None


@dataclass(frozen=True)
class Instances:
    """Objects of one image; ``instances[instances.scores > 0.9]`` filters every field together.

    Attributes
    ----------
    boxes : (N, 4) int64, (x0, y0, x1, y1) of each mask's frame in pixels, x1 and y1 exclusive,
        inside the image.
    masks : tuple of N bool arrays, masks[i] has shape (y1 - y0, x1 - x0) of boxes[i].
    scores : (N,) float32 in 0…1 (1 for objects drawn by a person or read from a file).
    classes : (N,) int32.
    shape : (height, width) of the image.
    votes : (N,) int32, how many views saw each object; 1 where there was one view only.
    sources : (N,) int64, the raw detection behind each object, -1 if there is none. It names an object
        across changes of settings.
    ids : (N,) int64, what each object is called in its label image; by default 1…N. A selection of objects is
        numbered anew.
    """

    boxes: NDArray[np.int64]
    masks: tuple[NDArray[np.bool_], ...]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]
    shape: tuple[int, int]
    votes: NDArray[np.int32] = _UNSET
    sources: NDArray[np.int64] = _UNSET
    ids: NDArray[np.int64] = _UNSET

    def __post_init__(self) -> None:
        if self.votes is _UNSET:
            object.__setattr__(self, "votes", np.ones(len(self.masks), np.int32))
        if self.sources is _UNSET:
            object.__setattr__(self, "sources", np.full(len(self.masks), -1, np.int64))
        if self.ids is _UNSET:
            object.__setattr__(self, "ids", np.arange(1, len(self.masks) + 1, dtype=np.int64))
        lengths = {f.name: len(getattr(self, f.name)) for f in fields(self) if f.name != "shape"}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"fields differ in length: {lengths}")

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: NDArray[np.generic] | slice) -> Instances:
        chosen = np.arange(len(self))[index]
        return Instances(
            boxes=self.boxes[chosen],
            masks=tuple(self.masks[i] for i in chosen),
            scores=self.scores[chosen],
            classes=self.classes[chosen],
            shape=self.shape,
            votes=self.votes[chosen],
            sources=self.sources[chosen],
        )

    def with_masks(self, boxes: NDArray[np.int64], masks: Sequence[NDArray[np.bool_]]) -> Instances:
        """The same objects with other frames and masks."""
        return replace(self, boxes=boxes, masks=tuple(masks))

    def __iter__(self) -> Iterator[tuple[tuple[slice, slice], NDArray[np.bool_]]]:
        """Yield ``(rows, columns), mask`` for each object: ``image[rows, columns][mask]``."""
        for (x0, y0, x1, y1), mask in zip(self.boxes.tolist(), self.masks, strict=True):
            yield (slice(y0, y1), slice(x0, x1)), mask

    @property
    def areas(self) -> NDArray[np.int64]:
        """(N,) number of pixels of each object."""
        return np.array([np.count_nonzero(m) for m in self.masks], np.int64)

    def tight_boxes(self) -> NDArray[np.int64]:
        """(N, 4) xyxy of the masks themselves: frames may be larger. Masks must not be empty."""
        boxes = np.zeros((len(self), 4), np.int64)
        for i, ((rows, columns), mask) in enumerate(self):
            y, x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            corner = (columns.start, rows.start)
            boxes[i] = (*corner + np.array([x[0], y[0]]), *corner + np.array([x[-1], y[-1]]) + 1)
        return boxes

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> Instances:
        """No objects in an image of this (height, width)."""
        none = np.zeros(0, np.int32)
        return cls(np.zeros((0, 4), np.int64), (), none.astype(np.float32), none, shape)

    @classmethod
    def drawn(
        cls,
        boxes: Sequence[tuple[int, int, int, int]],
        masks: Sequence[NDArray[np.bool_]],
        shape: tuple[int, int],
    ) -> Instances:
        """Objects that somebody drew, or that were read from a file: score 1, class 1."""
        n = len(masks)
        return cls(
            np.asarray(boxes, np.int64).reshape(n, 4),
            tuple(masks),
            np.ones(n, np.float32),
            np.ones(n, np.int32),
            shape,
        )

    @classmethod
    def from_labels(cls, labels: NDArray[np.integer]) -> Instances:
        """Objects of a 2D label image in rising order of their ids, which they keep; score 1 and class 1."""
        if labels.ndim != 2:
            raise ValueError(f"a label image has two axes, this one has shape {labels.shape}")
        ids, boxes = bounding_boxes(labels)
        frames = boxes.tolist()
        masks = [labels[y0:y1, x0:x1] == i for i, (x0, y0, x1, y1) in zip(ids.tolist(), frames, strict=True)]
        return replace(cls.drawn(frames, masks, (labels.shape[0], labels.shape[1])), ids=ids)

    def overlap(self) -> tuple[int, int] | None:
        """Places of two objects that share a pixel, or None if all are disjoint."""
        labels = self[:].to_labels()
        for place, (window, mask) in enumerate(self):
            other = labels[window][mask] != place + 1
            if other.any():
                return int(labels[window][mask][other][0]) - 1, place
        return None

    def to_planes(self) -> NDArray[np.int32]:
        """(K, H, W) int32, at least one plane: objects that share pixels are painted in different ones."""
        planes = [np.zeros(self.shape, np.int32)]
        for label, (window, mask) in zip(self.ids.tolist(), self, strict=True):
            plane = next((p for p in planes if not p[window][mask].any()), None)
            if plane is None:
                planes.append(plane := np.zeros(self.shape, np.int32))
            plane[window][mask] = label
        return np.stack(planes)

    def to_labels(self, rows: slice = slice(None)) -> LabelImage:
        """Paint the objects under their ids; where they meet, the first keeps the pixel.

        Parameters
        ----------
        rows : of the image, to paint a part of it only.

        Returns
        -------
        (H, W) int32, or as many rows as asked for.
        """
        top, bottom, _ = rows.indices(self.shape[0])
        labels = np.zeros((bottom - top, self.shape[1]), np.int32)
        boxes, masks = self.boxes, self.masks
        for k in np.flatnonzero((boxes[:, 1] < bottom) & (boxes[:, 3] > top)).tolist():
            x0, y0, x1, y1 = boxes[k].tolist()
            view = labels[max(y0, top) - top : y1 - top, x0:x1]
            mask = masks[k][max(0, top - y0) : bottom - y0]
            view[mask & (view == 0)] = self.ids[k]
        return labels
