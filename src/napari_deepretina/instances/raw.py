"""What the network found, before any final threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RawInstances:
    """Detections above loose floors, with their masks still at network resolution.

    Every setting a person may tune is applied to this value, so tuning never runs the
    network again. ``raw[index]`` selects along N in all per-detection fields together.

    Attributes
    ----------
    boxes : (N, 4) float32, (x0, y0, x1, y1) in pixels of the image given by the user.
    scores : (N,) float32 in 0…1.
    masks : (N, S, S) uint8 or float32, probability times 255 on a regular grid over the box.
    classes : (N,) int32, index into the model's class names; 0 is background and never occurs.
    views, tiles : (N,) int32, index into the plan's views and tiles.
    shape : (height, width) of that image.
    view_count : how many views were looked at, those without any detection included.
    thinned : IoU above which boxes of a view were thinned out already, 1 for not at all.
    fading : whether masks fade to nothing at the borders of their boxes, as Matterport pastes them, instead
        of going on to the edge.
    fingerprint : str, identifies weights and plan; equal fingerprints mean equal detections.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    masks: NDArray[np.uint8 | np.float32]
    classes: NDArray[np.int32]
    views: NDArray[np.int32]
    tiles: NDArray[np.int32]
    shape: tuple[int, int]
    fingerprint: str = ""
    view_count: int = 1
    thinned: float = 1.0
    fading: bool = False

    _PER_DETECTION = ("boxes", "scores", "masks", "classes", "views", "tiles")

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in self._PER_DETECTION}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"fields differ in length: {lengths}")
        if self.boxes.shape[1:] != (4,):
            raise ValueError(f"boxes must be (N, 4), got {self.boxes.shape}")

    @property
    def is_sound(self) -> bool:
        """Whether all arrays fit each other and hold numbers that a network may give: ask it of files."""
        count = len(self.scores)
        beside = (self.scores, self.classes, self.views, self.tiles)
        fits = (
            self.masks.ndim == 3
            and self.masks.dtype.kind in "uf"
            and self.masks.shape[2:] == self.masks.shape[1:2]
        )
        whole = all(a.shape == (count,) and a.dtype.kind == "i" for a in beside[1:])
        numbers = self.scores.shape == (count,) and self.scores.dtype.kind == self.boxes.dtype.kind == "f"
        return bool(
            fits
            and whole
            and numbers
            and np.isfinite(self.boxes).all()
            and np.isfinite(self.scores).all()
            and (self.classes > 0).all()
            and min(self.shape) > 0
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: NDArray[np.generic] | slice) -> RawInstances:
        kept = {name: getattr(self, name)[index] for name in self._PER_DETECTION}
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in kept}
        return RawInstances(**kept, **rest)

    @classmethod
    def empty(cls, shape: tuple[int, int], *, mask_size: int = 28, fingerprint: str = "") -> RawInstances:
        """Nothing found in an image of this (height, width)."""
        return cls(
            boxes=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            masks=np.zeros((0, mask_size, mask_size), np.uint8),
            classes=np.zeros(0, np.int32),
            views=np.zeros(0, np.int32),
            tiles=np.zeros(0, np.int32),
            shape=shape,
            fingerprint=fingerprint,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[RawInstances]) -> RawInstances:
        """Join the detections of several views or tiles of one image.

        Raises
        ------
        ValueError
            If there are no parts, or they belong to images of different shape.
        """
        if not parts:
            raise ValueError("nothing to concatenate: give at least one part")
        if len({p.shape for p in parts}) > 1:
            raise ValueError(f"parts of different images: {sorted({p.shape for p in parts})}")
        joined = {n: np.concatenate([getattr(p, n) for p in parts]) for n in cls._PER_DETECTION}
        return cls(
            **joined,
            shape=parts[0].shape,
            fingerprint=parts[0].fingerprint,
            view_count=max(p.view_count for p in parts),
            thinned=max(p.thinned for p in parts),
            fading=any(p.fading for p in parts),
        )

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        return sum(getattr(self, name).nbytes for name in self._PER_DETECTION)
