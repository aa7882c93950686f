"""Which arrays are images, and their channels."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.errors import UserError

MOST_CHANNELS = 8
"""A short axis of at most so many positions may hold channels."""
TRIED_CHANNELS = 4
"""Of more channels a person chooses."""
_SAMPLED = 4_000_000
_SEEN = 256


_SEEN_LAST: list[tuple[weakref.ref[Any], NDArray[Any]]] = []
"""Overviews of the last images that lie on disk: each takes a pass over the whole file."""


def overview(image: Any) -> NDArray[Any]:
    """The image itself, or of a very large one every so-many-th pixel: about four million values.

    Of an image on disk it is read once, however often it is asked for; nobody may write to it.
    """
    step = max(1, int(np.sqrt(int(np.prod(image.shape)) / _SAMPLED)))
    if isinstance(image, np.ndarray):  # in memory, or mapped into it
        return np.asarray(image[::step, ::step])
    for known, seen in _SEEN_LAST:
        if known() is image:
            return seen
    seen = np.asarray(image[::step, ::step]).view()
    seen.flags.writeable = False
    try:
        _SEEN_LAST.insert(0, (weakref.ref(image), seen))
    except TypeError:  # not every array can be watched
        return seen
    del _SEEN_LAST[2:]
    return seen


def as_channels(image: NDArray[Any]) -> NDArray[Any]:
    """View as (H, W, C) without alpha, booleans as bytes.

    A fourth channel is alpha if it is the same nearly everywhere and at either end of its type's range.

    Raises
    ------
    UserError
        See `check_image`.
    """
    check_image(image)
    if image.dtype == bool:
        image = image.view(np.uint8)
    if image.ndim == 2:
        return image[..., None]
    return image[..., :3] if image.shape[2] == 4 and _is_alpha(image[..., 3]) else image


def _is_alpha(channel: NDArray[Any]) -> bool:
    every = max(1, max(channel.shape) // _SEEN)
    seen = np.asarray(channel[::every, ::every])
    ends = (0, np.iinfo(seen.dtype).max) if seen.dtype.kind in "iu" else (0, 1, 255)
    return float(np.isin(seen, ends).mean()) > 0.5


def check_image(image: Any) -> tuple[int, int]:
    """(height, width) of anything with shape and dtype that can be segmented.

    Raises
    ------
    UserError
        If the image is empty, complex, or has axes or channels that do not fit.
    """
    if image.dtype.kind not in "biuf":
        raise UserError(f"images of dtype {image.dtype} cannot be segmented; use a real number type")
    if image.ndim not in (2, 3):
        raise UserError(f"an image has (y, x) or (y, x, channel) axes, this one shape {image.shape}")
    if 0 in image.shape:
        raise UserError(f"the image is empty: its shape is {image.shape}")
    if image.ndim == 3 and image.shape[2] > TRIED_CHANNELS:
        raise UserError(f"the image has {image.shape[2]} channels; choose one of them")
    return int(image.shape[0]), int(image.shape[1])
