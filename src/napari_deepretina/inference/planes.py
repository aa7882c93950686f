"""Which two axes of a layer's data are the image, which one holds channels, and which count planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.channel_names import COLOURS
from napari_deepretina.data.channels import MOST_CHANNELS
from napari_deepretina.data.picture import Picture
from napari_deepretina.errors import UserError

LAZY_FROM = 4_000_000
"""Planes of more pixels are not read before they are needed, part by part."""
CHANNELS, PLANES = "channels", "planes"
_NAMES = {
    CHANNELS: ("c", "ch", "channel", "channels", "colour", "color"),
    PLANES: ("z", "t", "time", "frame", "slice", "plane", "depth", "stack"),
}


@dataclass(frozen=True)
class Layout:
    """What the axes of an array are.

    Attributes
    ----------
    shape : of the array.
    rgb : whether the last axis is RGB(A).
    y, x : the axes of rows and of columns.
    channels : the axis of channels or of RGB(A); None if there is none.
    unsure : a short axis that holds channels or planes, and nothing says which; None if there is none.
    names : of the axes, "" where nobody gave one.
    """

    shape: tuple[int, ...]
    rgb: bool
    y: int
    x: int
    channels: int | None
    unsure: int | None
    names: tuple[str, ...]

    @property
    def plane_axes(self) -> tuple[int, ...]:
        """The axes that planes are counted along, with the one that may hold channels instead."""
        return tuple(i for i in range(len(self.shape)) if i not in (self.y, self.x, self.channels))

    @property
    def either(self) -> int | None:
        """The axis on which a channel may be chosen."""
        return self.unsure if self.channels is None else self.channels

    def channel_choices(self, names: Sequence[str] = ()) -> list[tuple[str, int | None]]:
        """What a person may choose: (text, channel); None stands for the image as it is shown.

        Parameters
        ----------
        names : of the channels, where the file gave any.
        """
        if self.rgb:
            return [("colour", None), *((name, i) for i, name in enumerate(COLOURS))]
        axis = self.either
        count = 0 if axis is None else self.shape[axis]
        told = list(names) if len(names) == count else [f"channel {i}" for i in range(count)]
        numbers: list[tuple[str, int | None]] = [(text, i) for i, text in enumerate(told)]
        return numbers if axis is not None and axis > self.x else [("as shown", None), *numbers]

    def told(self, kind: str) -> Layout:
        """The same when somebody says what the unsure axis holds: `CHANNELS` or `PLANES`."""
        if self.unsure is None or kind not in (CHANNELS, PLANES):
            return self
        return replace(self, channels=self.unsure if kind == CHANNELS else None, unsure=None)


def layout_of(shape: Sequence[int], *, rgb: bool, names: Sequence[str] = ()) -> Layout:
    """What the axes of an array are, from its names of axes and its shape.

    An axis with the name of channels holds them. Without names, a last axis too short for columns holds
    channels, and a first one that is short is `unsure`.

    Raises
    ------
    UserError
        If it has fewer than two axes besides RGB(A).
    """
    shape, count = tuple(int(n) for n in shape), len(shape)
    if count - rgb < 2:
        raise UserError(f"an image needs two axes, this one has shape {shape}")
    given = tuple(_plain(names[i]) if i < len(names) else "" for i in range(count))
    channels: int | None = count - 1 if rgb else None
    if not rgb and count > 2:
        named = [i for i, name in enumerate(given) if name in _NAMES[CHANNELS]]
        short_end = shape[-1] <= MOST_CHANNELS < min(shape[-3:-1])
        channels = named[0] if named else count - 1 if short_end and given[-1] in ("", "x") else None
    y, x = [i for i in range(count) if i != channels][-2:]
    if any(name in ("y", "x") and i not in (y, x) for i, name in enumerate(given)):
        raise UserError(
            f"the axes are {', '.join(name or '?' for name in given)}: rows (y) and columns (x) must come "
            "last; move them there first"
        )
    unsure = None
    if channels is None and count > 2 and shape[0] <= MOST_CHANNELS and given[0] not in _NAMES[PLANES]:
        unsure = 0
    return Layout(shape, rgb, y, x, channels, unsure, given)


def _plain(name: str) -> str:
    """A name of an axis in small letters; napari's own numbers, such as -3 or axis -3, are no names."""
    text = str(name).strip().lower()
    return "" if text.removeprefix("axis").strip().lstrip("-").isdigit() else text


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


def take_plane(data: Any, layout: Layout, *, step: Sequence[int], channel: int | None = None) -> Plane:
    """Read the plane that is shown.

    Parameters
    ----------
    data : numpy, dask or zarr array with this layout.
    step : position on each axis but RGB, e.g. the viewer's; those on y and x do not matter.
    channel : position on the axis of channels, or the one that may be; None takes `step` there, or all of
        RGB(A).

    Raises
    ------
    UserError
        If there is no such channel.
    """
    y, x = layout.y, layout.x
    index = _index(layout, (y, x), step=step, channel=channel)
    large = layout.shape[y] * layout.shape[x] > LAZY_FROM
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
    data: Any,
    layout: Layout,
    *,
    step: Sequence[int],
    along: int,
    channel: int | None = None,
    letter: str = "Z",
) -> Stack:
    """Planes along an axis; on axes besides, those that are shown.

    Parameters
    ----------
    data, layout, step, channel : as of `take_plane`.
    along : one of the layout's plane axes.
    letter : what the axis is called: Z, T …

    Raises
    ------
    UserError
        If there is no such axis or channel.
    """
    taken_by = layout.either if channel is not None else None
    if along not in layout.plane_axes or along == taken_by:
        raise UserError(f"axis {along} of the image of shape {layout.shape} does not count planes")
    kept = (along, layout.y, layout.x)
    index = _index(layout, kept, step=step, channel=channel)
    taken = _lazy(data)[tuple(slice(None) if i is None else i for i in index)]
    rgb = "C" if layout.rgb and channel is None else ""
    letters = dict(zip(kept, f"{letter}YX", strict=True))
    axes = "".join(letters[i] for i in sorted(kept)) + rgb
    return Stack(Picture(taken, axes), kept, tuple(index))


def _index(
    layout: Layout, kept: Sequence[int], *, step: Sequence[int], channel: int | None
) -> list[int | None]:
    """Position on each axis, None on those that are kept whole."""
    axis = layout.either
    if channel is not None and (axis is None or channel >= layout.shape[axis]):
        raise UserError(f"the image of shape {layout.shape} has no channel {channel}")
    index: list[int | None] = [None] * len(layout.shape)
    for i, n in enumerate(layout.shape):
        if i not in kept:
            index[i] = int(np.clip(step[i] if i < len(step) else 0, 0, n - 1))
    if layout.rgb:
        index[-1] = None
    if channel is not None and axis is not None:
        index[axis] = channel
    elif layout.channels is not None and layout.channels > layout.x and not layout.rgb:
        index[layout.channels] = 0
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
