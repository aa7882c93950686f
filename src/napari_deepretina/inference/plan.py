"""What will be done to an image before the network sees it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from napari_deepretina.errors import UserError
from napari_deepretina.model.architecture import Architecture

PAD_TO = 64
LARGEST_SCALE = 16.0


@dataclass(frozen=True)
class Plan:
    """How one image is laid before the network; a value that can be printed and costed.

    Attributes
    ----------
    shape : (height, width) of the image, in its own pixels.
    scale : zoom from image to network pixels, before what a view adds to either axis.
    scaled : (height, width) in network pixels.
    padded : the same, each side filled up to a multiple of 64 at bottom and right.
    offset : (above, left), pixels that are filled up before the image; Matterport puts half of them there.
    viewed : (height, width) that a view gives the image before all this.
    """

    shape: tuple[int, int]
    scale: float
    scaled: tuple[int, int]
    padded: tuple[int, int]
    offset: tuple[int, int] = (0, 0)
    viewed: tuple[int, int] = (0, 0)

    @property
    def window(self) -> tuple[int, int, int, int]:
        """(y0, x0, y1, x1) of the image in the padded one, y1 and x1 exclusive."""
        (y, x), (height, width) = self.offset, self.scaled
        return y, x, y + height, x + width

    @property
    def megapixels(self) -> float:
        """Millions of pixels that the network will see."""
        return self.padded[0] * self.padded[1] / 1e6

    def fingerprint(self, weights_sha256: str, *more: object) -> str:
        """Equal for equal weights, plans and whatever else decides the detections."""
        content = json.dumps([asdict(self), weights_sha256, *more])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def make_plan(
    shape: tuple[int, int],
    architecture: Architecture,
    *,
    trained_diameter: float,
    diameter: float | None = None,
    size: tuple[int, int] | None = None,
    scale: float | None = None,
) -> Plan:
    """Plan one image.

    Parameters
    ----------
    shape : (height, width).
    architecture : its `usual_scale` counts where no diameter is given.
    trained_diameter : median nucleus diameter at the network's scale in training, pixels.
    diameter : expected nucleus diameter in pixels of this image; given, it alone decides the scale.
    scale : zoom from image to network pixels, if it is decided already, as for a part of an image.
    size : (height, width) that a view gives the image first; by default its own.

    Raises
    ------
    UserError
        If the image is empty or the diameter makes no sense for it.
    """
    if min(shape) < 1:
        raise UserError(f"the image is empty: height × width is {shape[0]}×{shape[1]}")
    size = size or shape
    if scale is not None:
        pass
    elif diameter is None:
        scale = architecture.usual_scale(size)
    elif not 0 < diameter < float("inf"):
        raise UserError(f"the expected diameter must be above 0 pixels, got {diameter:g}")
    else:
        scale = trained_diameter / diameter
        if scale > LARGEST_SCALE:
            raise UserError(
                f"an expected diameter of {diameter:g} pixels would enlarge the image {scale:.0f} "
                f"times; give at least {trained_diameter / LARGEST_SCALE:.1f}"
            )
    scaled = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    padded = (-(-scaled[0] // PAD_TO) * PAD_TO, -(-scaled[1] // PAD_TO) * PAD_TO)
    offset = (0, 0)
    if architecture.is_matterport:
        if architecture.resize == "square":
            side = max(architecture.long_side, *padded)
            padded = (side, side)
        offset = ((padded[0] - scaled[0]) // 2, (padded[1] - scaled[1]) // 2)
        if architecture.resize == "none" and padded != scaled:
            raise UserError(
                f"these weights take images as they are, with sides that are multiples of {PAD_TO}; this one "
                f"has {scaled[0]}×{scaled[1]}"
            )
    return Plan(shape, scale, scaled, padded, offset, size)
