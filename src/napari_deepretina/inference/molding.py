"""Images as the original programs laid them before their network, to the bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import resize

from napari_deepretina.errors import UserError
from napari_deepretina.inference.views import View

Mode = Literal["none", "square", "pad64", "crop"]
_MULTIPLE = 64


@dataclass(frozen=True)
class Molded:
    """A resized image and how it came about.

    Attributes
    ----------
    image : (H, W, C) of the input's dtype; scaled values are cut off, not rounded, to integers.
    window : (y0, x0, y1, x1), where the image lies in it, y1 and x1 exclusive.
    scale : zoom of height and of width.
    padding : zeros added (above, below), (left, right).
    crop : (y, x, height, width) cut out of the scaled image, or None.
    """

    image: NDArray[Any]
    window: tuple[int, int, int, int]
    scale: tuple[float, float]
    padding: tuple[tuple[int, int], tuple[int, int]]
    crop: tuple[int, int, int, int] | None


def scaled(image: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Bilinear resize to (height, width) as scikit-image did before it smoothed by itself.

    Samples beyond the border count as 0, which leaves a dark rim one pixel wide on enlarged images;
    the result is clipped to the input's range. Returns float64 in the input's units.
    """
    return np.asarray(
        resize(image, shape, order=1, mode="constant", preserve_range=True, anti_aliasing=False)
    )


def mold(
    image: NDArray[Any],
    mode: Mode,
    *,
    min_dim: int = 0,
    max_dim: int = 0,
    min_scale: float = 0,
    scale: tuple[float, float] | None = None,
    corner: tuple[int, int] = (0, 0),
) -> Molded:
    """Resize and pad or crop an image as Matterport's ``resize_image`` does.

    Parameters
    ----------
    image : (H, W, C).
    mode : ``none`` leaves it alone; ``square`` scales up to `min_dim` on the short side, but at most to
        `max_dim` on the long one, and pads to max_dim × max_dim; ``pad64`` scales up and pads each side
        to a multiple of 64, the smaller half first; ``crop`` cuts min_dim × min_dim out of the scaled
        image at `corner` (y, x).
    min_scale : scale up by at least this; 0 for no such wish.
    scale : zoom of (height, width), instead of the one that follows from the above.

    Raises
    ------
    UserError
        If mode and lengths do not go together.
    """
    height, width = image.shape[:2]
    if mode == "none":
        return Molded(image, (0, 0, height, width), (1, 1), ((0, 0), (0, 0)), None)
    if mode not in ("square", "pad64", "crop"):
        raise UserError(f"resize mode {mode!r} is not known; choose none, square, pad64 or crop")
    if (mode == "square" and max_dim < 1) or (mode == "crop" and min_dim < 1):
        raise UserError(f"resize mode {mode} needs {'max_dim' if mode == 'square' else 'min_dim'} above 0")
    if scale is None:
        zoom: float = max(1, min_dim / min(height, width), min_scale)
        if mode == "square" and round(max(height, width) * zoom) > max_dim:
            zoom = max_dim / max(height, width)
        scale = (zoom, zoom)
    dtype = image.dtype
    if scale != (1, 1):
        image = scaled(image, (round(height * scale[0]), round(width * scale[1])))
        height, width = image.shape[:2]
    if mode == "crop":
        y, x = corner
        if y + min_dim > height or x + min_dim > width:
            raise UserError(f"a crop of {min_dim} pixels at {corner} leaves the image of {height}×{width}")
        piece = image[y : y + min_dim, x : x + min_dim].astype(dtype)
        window = (0, 0, min_dim, min_dim)
        return Molded(piece, window, scale, ((0, 0), (0, 0)), (y, x, min_dim, min_dim))
    wanted = [max_dim if mode == "square" else -(-n // _MULTIPLE) * _MULTIPLE for n in (height, width)]
    (top, bottom), (left, right) = (_halves(w - n) for w, n in zip(wanted, (height, width), strict=True))
    padded = np.pad(image, ((top, bottom), (left, right), (0, 0)))
    window = (top, left, top + height, left + width)
    return Molded(padded.astype(dtype), window, scale, ((top, bottom), (left, right)), None)


def _halves(missing: int) -> tuple[int, int]:
    return missing // 2, missing - missing // 2


def view_of(image: NDArray[Any], view: View) -> NDArray[Any]:
    """An image (H, W, C) as the original laid it before the network for one of its views."""
    turned, size = view.orient(image), view.size((image.shape[0], image.shape[1]))
    return turned if size == turned.shape[:2] else scaled(turned, size)


def masks_from_view(masks: NDArray[np.bool_], view: View, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks (H', W', N) of a view back in an image of `shape`, as the original did: nearest neighbour."""
    turned = view.turned(shape)
    if masks.shape[:2] != turned:
        zoom = (turned[0] / masks.shape[0], turned[1] / masks.shape[1], 1)
        masks = ndimage.zoom(masks, zoom, order=0)
    masks = np.rot90(masks, 4 - view.quarter_turns)
    masks = masks[:, ::-1] if view.flip_lr else masks
    return masks[::-1] if view.flip_ud else masks
