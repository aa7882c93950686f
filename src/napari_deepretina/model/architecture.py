"""What a network looks like: enough to build it before its weights are read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Backbone = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "matterport_resnet50", "matterport_resnet101"
]


SMALL = 0.85
"""Nuclei of less than this share of the diameter that a network knows are small to it."""
GOAL = 1.2
"""The share that they are enlarged to."""
LARGE = 4.0
"""Nuclei of more than this share of the diameter that a network knows are large to it."""
GOAL_OF_LARGE = 2.0
"""The share that they are reduced to."""
MOST_ENLARGED = 2.0
"""Images are not enlarged by more than this, and for small nuclei by as much once more."""


Width = Annotated[int, Field(ge=1, le=16_384)]
"""Channels of a layer."""
Side = Annotated[int, Field(ge=1, le=16_384)]
"""Pixels."""
Ratio = Annotated[float, Field(gt=0, le=100)]


class Architecture(BaseModel):
    """Frozen description of a Mask R-CNN, stored in the header of every weights file.

    All lengths are in pixels of the network's input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Backbone = "resnet50"
    classes: tuple[str, ...] = Field(default=("nucleus",), min_length=1)
    """Names of the object classes; class ids start at 1, 0 is background."""
    width: float = Field(default=1.0, gt=0, le=1, multiple_of=1 / 64)
    """Width multiplier of torchvision's backbones: the share of their usual channels that each layer has.

    Narrow ones learn and detect faster; nobody published weights for them. See Howard et al. 2017."""
    body_widths: tuple[Width, ...] = Field(
        default=(64, 64, 256, 128, 512, 256, 1024, 512, 2048), min_length=9, max_length=9
    )
    """Matterport backbones: channels of the stem, then inside and after each of the four stages."""
    fpn_channels: int = Field(default=256, ge=8, le=512)
    rpn_channels: Width = Field(default=512, ge=8)
    """Matterport backbones: channels of the proposal network's shared convolution."""
    anchor_sizes: tuple[Side, Side, Side, Side, Side] = (8, 16, 32, 64, 128)
    """Anchor sides on P2…P6, whose strides are 4…64."""
    aspect_ratios: tuple[Ratio, ...] = Field(default=(0.5, 1.0, 2.0), min_length=1, max_length=9)
    box_units: Width = Field(default=1024, ge=8)
    """Width of the two fully connected layers of the box head."""
    mask_convs: int = Field(default=4, ge=1, le=8)
    mask_channels: Width = Field(default=256, ge=8)
    roi_canonical_size: Side = Field(default=128, ge=16)
    """A region of this side is pooled from P4 (stride 16), half of it from P3, and so on.

    The original's 224 was chosen for photographs; see Lin et al. 2017 (FPN), equation 1."""
    roi_samples: int = Field(default=1, ge=1, le=4)
    """Bilinear samples a side in each cell of a pooled region; one, as the original took."""
    short_side: Side = Field(default=512, ge=64)
    """Images are scaled up until their short side has this many pixels; to twice their size at most, but for
    Matterport's networks."""
    scale: float = Field(default=1.0, gt=0, le=1)
    """Images that need not be scaled up are laid before the network at this scale; below 1 it is faster."""
    long_side: Side = Field(default=1024, ge=64, multiple_of=64)
    """Matterport's square mode: side of the square; longer images are scaled down to it."""
    resize: Literal["pad64", "square", "none"] = "pad64"
    """Matterport backbones: how an image is fitted; none takes only sides that are multiples of 64."""

    @property
    def num_classes(self) -> int:
        """Object classes plus background."""
        return len(self.classes) + 1

    def usual_scale(self, shape: tuple[int, ...]) -> float:
        """Zoom from an image of (height, width) to network pixels, where nobody says otherwise."""
        larger = self.short_side / min(shape[:2])
        if not self.is_matterport:
            return max(self.scale, min(larger, MOST_ENLARGED * self.scale))
        if self.resize == "none":
            return 1.0
        zoom, side = max(self.scale, larger), max(shape[:2])
        too_long = self.resize == "square" and round(side * zoom) > self.long_side
        return self.long_side / side if too_long else zoom

    def adapted_scale(self, diameter: float, known: float, usual: float) -> float | None:
        """Zoom at which an image of small or large nuclei is looked at instead; None where they are neither.

        Parameters
        ----------
        diameter : typical one in the image, in its pixels.
        known : what the network was trained on, in network pixels.
        usual : zoom otherwise.
        """
        share = diameter * usual / known
        if share < SMALL:
            return min(GOAL * known / diameter, MOST_ENLARGED * usual)
        return GOAL_OF_LARGE * known / diameter if share > LARGE else None

    @property
    def is_matterport(self) -> bool:
        """Whether the network, and how images are laid before it, follow Matterport's."""
        return self.backbone.startswith("matterport")


class Limits(BaseModel):
    """Floors and caps of raw detection: loose, because tuning comes later.

    The caps hold for one image; a field with 2,000 nuclei stays under all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    objectness: float = 0.05
    """Proposals that the first stage is surer are background are not looked at again."""
    proposals_per_level: int = 4000
    proposals: int = 6000
    proposal_nms: float = 0.7
    score: float = 0.05
    nms: float = 0.7
    detections: int = 4000
    masks_at_once: int = 256
    """Regions whose masks are computed together; memory grows with it, the result does not change."""
