"""How well a network meets corrections that it did not learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_deepretina.evaluation import match
from napari_deepretina.instances import Instances
from napari_deepretina.postprocess.pairs import highest_iou
from napari_deepretina.teaching.corrections import Corrections

AGAIN = 0.4
"""IoU with the box of a deleted detection from which on another one is the same."""
NO_WORSE = 0.02
"""By so much the mean IoU may fall while as many are found: chance moves it as far."""


@dataclass(frozen=True)
class Told:
    """How well corrections are met that were kept aside.

    Attributes
    ----------
    found, missed : nuclei that are right, and overlap a detection by more than half (IoU) or do not.
    extra : detections that were deleted and are there again.
    mean_iou : of those found; 0 where there are none.
    """

    found: int = 0
    missed: int = 0
    extra: int = 0
    mean_iou: float = 0.0

    def __str__(self) -> str:
        again = f", {self.extra} deleted {'one' if self.extra == 1 else 'ones'} back" if self.extra else ""
        return f"{self.found} of {self.found + self.missed} found (mean IoU {self.mean_iou:.2f}){again}"

    def worse_than(self, other: Told) -> bool:
        """Whether fewer are found, or more of the deleted ones; at equal numbers, outlines decide."""
        mine, theirs = self.found - self.extra, other.found - other.extra
        return mine < theirs or (mine == theirs and self.mean_iou < other.mean_iou - NO_WORSE)


def told_of(found: Instances, corrections: Corrections) -> Told:
    """How detections meet corrections of the same image."""
    right = np.where(np.isin(corrections.labels, corrections.right), corrections.labels, 0)
    matched = match(right, found.to_labels())
    good = matched.iou[matched.iou > 0.5]
    extra = 0
    if len(found) and len(corrections.wrong):
        boxes = found.tight_boxes().astype(np.float32)
        extra = int((highest_iou(corrections.wrong, boxes) >= AGAIN).sum())
    missed = len(matched.true_ids) - len(good)
    return Told(len(good), missed, extra, round(float(good.mean()) if len(good) else 0.0, 4))
