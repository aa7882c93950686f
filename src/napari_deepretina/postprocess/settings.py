"""The choices made after the network has run."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PostprocessSettings(BaseModel):
    """Frozen settings; unknown names are errors. Lengths and areas are in pixels of the image."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    score: float = Field(default=0.5, ge=0, le=1)
    """Nuclei with a lower score are left out."""
    nms: float = Field(default=0.3, ge=0, le=1)
    """Of two boxes that overlap by more than this IoU, the one with the lower score goes."""
    mask_threshold: float = Field(default=0.5, gt=0, lt=1)
    """Pixels with a higher probability belong to the nucleus."""
    dilation: int = Field(default=0, ge=0, le=20)
    """Times that each mask grows by the 3×3 cross."""
    min_area: int = Field(default=4, ge=1)
    """Smaller nuclei are left out."""
    max_lost: float = Field(default=0.7, ge=0, le=1)
    """A nucleus that loses more than this share of its pixels to better ones is left out."""
