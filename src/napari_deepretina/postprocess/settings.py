"""The choices made after the network has run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PostprocessSettings(BaseModel):
    """Frozen settings; unknown names are errors. Lengths and areas are in pixels of the image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: float = Field(default=0.5, ge=0, le=1)
    """Nuclei with a lower score are left out."""
    nms: float = Field(default=0.3, ge=0, le=1)
    """Of two boxes that overlap by more than this IoU, the one with the lower score goes."""
    mask_threshold: float = Field(default=0.5, gt=0, lt=1)
    """Pixels with a higher probability belong to the nucleus."""
    dilation: int = Field(default=0, ge=-20, le=20)
    """Times that each mask grows by the 3×3 cross; below 0, times that it shrinks."""
    min_area: int = Field(default=4, ge=1)
    """Smaller nuclei are left out."""
    max_area: int = Field(default=0, ge=0)
    """Larger nuclei are left out; 0 sets no limit."""
    fill_holes: bool = False
    """Fill holes inside each nucleus."""
    drop_border: bool = False
    """Leave out nuclei that touch the image's border."""
    max_lost: float = Field(default=0.7, ge=0, le=1)
    """A nucleus that loses more than this share of its pixels to better ones is left out."""
    views: int = Field(default=0, ge=0)
    """With several views: how many of them count, from the first on; 0 takes all."""
    votes: int = Field(default=0, ge=0)
    """With several views: how many must agree on a pixel; 0 takes more than half of them (method original: a
    third)."""
    merge_iou: float = Field(default=0.6, gt=0, lt=1)
    """Detections of two views that overlap by at least this IoU are the same nucleus."""
    method: Literal["corrected", "original"] = "corrected"
    """original repeats Deep Retina with all its quirks; corrected gives an overlap to the higher score."""

    def votes_of(self, views: int) -> int:
        """How many of so many views must agree on a pixel."""
        return min(self.votes, views) or (-(-views // 3) if self.method == "original" else views // 2 + 1)
