"""Test-time views: the ways in which an image is looked at, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from napari_deepretina.errors import UserError
from napari_deepretina.files import expanded
from napari_deepretina.instances import RawInstances
from napari_deepretina.intake import faults, read_json

SMALL_SIDE = 512
"""A view does not shrink an image with a side below this, as in the original."""


class View(BaseModel):
    """One way to look at an image: flips, then quarter turns, then a scale for each axis."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip_ud: bool = False
    """Upside down."""
    flip_lr: bool = False
    """Left and right exchanged."""
    quarter_turns: int = Field(default=0, ge=0, le=3)
    """Times 90° against the clock."""
    channel_shift: float = Field(default=0, ge=0)
    """Largest shift of each channel, in grey levels of 255; used only where channel shifts are on."""
    height_ratio: float = Field(default=1, gt=0, le=8)
    """Scale of the turned image's height."""
    width_ratio: float = Field(default=1, gt=0, le=8)
    """Scale of the turned image's width."""

    def orient(self, image: NDArray[Any]) -> NDArray[Any]:
        """Flip and turn (H, W, …); a view of the same memory."""
        if self.flip_ud:
            image = image[::-1]
        if self.flip_lr:
            image = image[:, ::-1]
        return np.rot90(image, self.quarter_turns)

    def turned(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(height, width) after flips and turns."""
        return shape if self.quarter_turns % 2 == 0 else (shape[1], shape[0])

    def size(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the whole view of an image of this (height, width)."""
        height, width = self.turned(shape)
        shrinks = min(self.height_ratio, self.width_ratio) < 1
        if shrinks and min(height, width) < SMALL_SIDE:
            return height, width
        return max(1, round(height * self.height_ratio)), max(1, round(width * self.width_ratio))

    def restore(self, raw: RawInstances, shape: tuple[int, int]) -> RawInstances:
        """Detections in the pixels of the turned image (before scaling) as detections in the image's.

        Parameters
        ----------
        raw : boxes in pixels of ``orient(image)``.
        shape : (height, width) of the image.
        """
        x0, y0, x1, y1 = raw.boxes.T
        masks = np.rot90(raw.masks, -self.quarter_turns, axes=(1, 2))
        height, width = self.turned(shape)
        for _ in range(self.quarter_turns):
            # Undo one turn: the column counted from the right was the row.
            x0, y0, x1, y1 = height - y1, x0, height - y0, x1
            height, width = width, height
        if self.flip_lr:
            x0, x1, masks = width - x1, width - x0, masks[:, :, ::-1]
        if self.flip_ud:
            y0, y1, masks = height - y1, height - y0, masks[:, ::-1]
        boxes = np.stack([x0, y0, x1, y1], axis=1).astype(np.float32)
        return replace(raw, boxes=boxes, masks=np.ascontiguousarray(masks), shape=shape)


def shift_channels(image: NDArray[Any], largest: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Shift each channel of (H, W, C) by U(-largest, largest), within the image's own range."""
    shifts = np.asarray(rng.uniform(-largest, largest, image.shape[2]), np.float32)
    shifted: NDArray[np.float32] = np.clip(image.astype(np.float32) + shifts, image.min(), image.max())
    return shifted


def _all(flips: Sequence[tuple[bool, bool]], turns: Sequence[int]) -> tuple[View, ...]:
    return tuple(View(flip_ud=ud, flip_lr=lr, quarter_turns=k) for k in turns for ud, lr in flips)


_FLIPS = ((False, False), (False, True), (True, False), (True, True))
# Flips, quarter turns, channel shift, scales of height and width: the fifteen of the original.
_DEEP_RETINA = (
    ("", 0, 0, 1, 1), ("", 0, 0, 2, 2), ("", 0, 0, 0.7, 0.8), ("", 0, 15, 1.5, 1.5),
    ("ud lr", 1, 0, 0.9, 0.8), ("ud", 2, 7, 1.1, 1.2), ("lr", 3, 10, 0.5, 0.5), ("lr", 3, 10, 1, 1.2),
    ("ud lr", 2, 25, 1, 1), ("ud lr", 2, 25, 1, 1), ("lr", 3, 5, 1, 1), ("ud", 1, 15, 1, 1),
    ("ud lr", 3, 15, 1, 0.9), ("lr", 3, 10, 1.5, 1.5), ("", 3, 5, 1.2, 1),
)  # fmt: skip

PRESETS: dict[str, tuple[View, ...]] = {
    "none": (View(),),
    "flips": _all(_FLIPS, (0,)),
    "flips-rotations": _all(_FLIPS[:2], (0, 1, 2, 3)),
    "deep-retina": tuple(
        View(
            flip_ud="ud" in flips,
            flip_lr="lr" in flips,
            quarter_turns=turns,
            channel_shift=shift,
            height_ratio=height,
            width_ratio=width,
        )
        for flips, turns, shift, height, width in _DEEP_RETINA
    ),
}
"""Name → views. ``flips-rotations`` are the eight symmetries of a square."""


def resolve_views(tta: str | Sequence[View]) -> tuple[View, ...]:
    """Views of a preset, of a JSON file with a list of views, or the list itself.

    Raises
    ------
    UserError
        If it is none of them, or the list is empty or longer than 255.
    """
    if not isinstance(tta, str):
        views = tuple(tta)
    elif tta in PRESETS:
        views = PRESETS[tta]
    else:
        views = _read(expanded(tta))
    if not 1 <= len(views) <= 255:
        raise UserError(f"{len(views)} views were given; give 1 to 255")
    return views


def _read(path: Path) -> tuple[View, ...]:
    if path.suffix != ".json":
        raise UserError(
            f"tta={str(path)!r} is not known; choose {', '.join(PRESETS)} or a .json list of views"
        )
    try:
        return TypeAdapter(tuple[View, ...]).validate_python(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path} is not a list of views: {'; '.join(faults(error))}") from None
