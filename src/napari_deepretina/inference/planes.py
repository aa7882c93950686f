"""Which two axes of a layer's data are the image, which one holds channels, and which count planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.channels import MOST_CHANNELS
from napari_deepretina.data.picture import Picture
from napari_deepretina.errors import UserError

LAZY_FROM = 4_000_000
"""Planes of more pixels are not read before they are needed, part by part."""
_COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Plane:
    """A 2D image taken out of an array with more axes.

    Attributes
    ----------
    image : (H, W), or (H, W, 3 or 4) for RGB(A); large ones may be arrays of dask.
    axes : the array's axes that became (y, x).
    index : position on each axis of the array; None on the (y, x) axes and on RGB channels.
    """

    image: NDArray[Any]
    axes: tuple[int, int]
    index: tuple[int | None, ...]


def channel_axis(shape: Sequence[int], *, rgb: bool) -> int | None:
    """The axis that looks like channels: the last or the first one, if short; None if neither is."""
    if rgb:
        return len(shape) - 1
    if len(shape) < 3:
        return None
    if shape[-1] <= MOST_CHANNELS < min(shape[-3:-1]):
        return len(shape) - 1
    return 0 if shape[0] <= MOST_CHANNELS else None


def channel_choices(shape: Sequence[int], *, rgb: bool) -> list[tuple[str, int | None]]:
    """What a person may choose: (text, channel); None stands for the image as it is shown."""
    if rgb:
        return [("colour", None), *((name, i) for i, name in enumerate(_COLOURS))]
    axis = channel_axis(shape, rgb=False)
    numbers = [(f"channel {i}", i) for i in range(shape[axis])] if axis is not None else []
    if axis is not None and axis == len(shape) - 1:
        return list(numbers)
    return [("as shown", None), *numbers]


def plane_axes(shape: Sequence[int], *, rgb: bool, channel: int | None = None) -> list[int]:
    """The axes that planes are counted along: all but y, x, and that of channels where it is one.

    A short axis that may hold channels or planes (see `channel_axis`) counts unless a channel is chosen on
    it, or it is the last one.
    """
    y, x = _rows_and_columns(shape, rgb=rgb)
    channels = channel_axis(shape, rgb=rgb)
    taken = {y, x} | ({channels} if channels is not None and (channel is not None or channels > x) else set())
    return [i for i in range(len(shape)) if i not in taken]


def take_plane(data: Any, *, rgb: bool, step: Sequence[int], channel: int | None = None) -> Plane:
    """Read the plane that is shown.

    Parameters
    ----------
    data : numpy, dask or zarr array, (…, y, x), (…, y, x, RGB(A)) or with a short channel axis.
    rgb : whether the last axis is RGB(A).
    step : position on each axis but RGB, e.g. the viewer's; those on y and x do not matter.
    channel : position on `channel_axis`; None takes `step` there, or all of RGB(A).

    Raises
    ------
    UserError
        If the array has fewer than two axes, or no such channel.
    """
    shape = tuple(data.shape)
    y, x = _rows_and_columns(shape, rgb=rgb)
    index = _index(shape, (y, x), rgb=rgb, step=step, channel=channel)
    large = shape[y] * shape[x] > LAZY_FROM
    taken = (_lazy(data) if large else data)[tuple(slice(None) if i is None else i for i in index)]
    return Plane(taken if large else np.asarray(taken), (y, x), tuple(index))


@dataclass(frozen=True)
class Stack:
    """Planes along one axis of an array with more axes.

    Attributes
    ----------
    picture : with the axes (along, y, x) and RGB(A), if there is any; not read yet.
    axes : the array's axes that became (along, y, x).
    index : position on each axis of the array; None on those axes and on RGB channels.
    """

    picture: Picture
    axes: tuple[int, int, int]
    index: tuple[int | None, ...]


def take_stack(
    data: Any, *, rgb: bool, step: Sequence[int], along: int, channel: int | None = None, letter: str = "Z"
) -> Stack:
    """Planes along an axis; on axes besides, those that are shown.

    Parameters
    ----------
    data, rgb, step, channel : as of `take_plane`.
    along : one of `plane_axes`.
    letter : what the axis is called: Z, T …

    Raises
    ------
    UserError
        If there is no such axis or channel.
    """
    shape = tuple(data.shape)
    if along not in plane_axes(shape, rgb=rgb, channel=channel):
        raise UserError(f"axis {along} of the image of shape {shape} does not count planes")
    y, x = _rows_and_columns(shape, rgb=rgb)
    index = _index(shape, (along, y, x), rgb=rgb, step=step, channel=channel)
    taken = _lazy(data)[tuple(slice(None) if i is None else i for i in index)]
    return Stack(Picture(taken, f"{letter}YX" + ("C" if rgb else "")), (along, y, x), tuple(index))


def _rows_and_columns(shape: Sequence[int], *, rgb: bool) -> tuple[int, int]:
    if len(shape) - rgb < 2:
        raise UserError(f"an image needs two axes, this one has shape {tuple(shape)}")
    axis = channel_axis(shape, rgb=rgb)
    last = axis is not None and axis == len(shape) - 1
    return (len(shape) - 3, len(shape) - 2) if last else (len(shape) - 2, len(shape) - 1)


def _index(
    shape: Sequence[int], kept: Sequence[int], *, rgb: bool, step: Sequence[int], channel: int | None
) -> list[int | None]:
    """Position on each axis, None on those that are kept whole."""
    axis = channel_axis(shape, rgb=rgb)
    if channel is not None and (axis is None or channel >= shape[axis]):
        raise UserError(f"the image of shape {tuple(shape)} has no channel {channel}")
    index: list[int | None] = [None] * len(shape)
    for i in range(len(shape)):
        if i not in kept:
            index[i] = int(np.clip(step[i] if i < len(step) else 0, 0, shape[i] - 1))
    if rgb:
        index[-1] = None
    if channel is not None and axis is not None:
        index[axis] = channel
    elif axis == len(shape) - 1 and not rgb:
        index[-1] = 0
    return index


def _lazy(data: Any) -> Any:
    """The same array, cut only where it is read: numpy and dask are so, others go by dask."""
    if isinstance(data, np.ndarray) or hasattr(data, "dask"):
        return data
    try:
        import dask.array
    except ImportError:
        return data
    wrapped: Any = dask.array.from_array(data)
    return wrapped
