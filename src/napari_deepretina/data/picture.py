"""Image files with the meaning of their axes: planes of a stack, channels, rows and columns."""

from __future__ import annotations

import io
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.files import decode_image
from napari_deepretina.data.reading import MOST_CHANNELS
from napari_deepretina.errors import UserError

LAZY_BYTES = 256_000_000
"""TIFF files on disk that decode to more are read part by part."""
_CHANNELS, _UNKNOWN = "CS", "QI"


@dataclass(frozen=True)
class Picture:
    """An image, or a stack of images.

    Attributes
    ----------
    pixels : array of numpy, dask or zarr.
    axes : a letter for each axis: Y and X, C for channels or RGB, at most one of these; any others, such as Z
        and T, are counted through by planes.
    """

    pixels: Any
    axes: str

    def __post_init__(self) -> None:
        shape = tuple(self.pixels.shape)
        letters = set(self.axes)
        if len(self.axes) != len(shape) or len(letters) != len(shape) or not letters >= {"Y", "X"}:
            raise UserError(
                f"axes {self.axes!r} do not fit an image of shape {shape}: give each a letter, e.g. ZYX"
            )

    @property
    def plane_axes(self) -> tuple[int, ...]:
        """Positions of the axes that planes are counted along."""
        return tuple(i for i, a in enumerate(self.axes) if a not in "YXC")

    @property
    def extent(self) -> tuple[int, ...]:
        """Planes along each of them; () for a single image."""
        return tuple(int(self.pixels.shape[i]) for i in self.plane_axes)

    @property
    def height_width(self) -> tuple[int, int]:
        """Of each plane, in pixels."""
        shape = self.pixels.shape
        return int(shape[self.axes.index("Y")]), int(shape[self.axes.index("X")])

    def plane(self, index: Sequence[int] = ()) -> Any:
        """(H, W) or (H, W, C), not read yet if the picture is lazy.

        Parameters
        ----------
        index : position along each of `plane_axes`.
        """
        where: list[Any] = [slice(None)] * len(self.axes)
        for axis, position in zip(self.plane_axes, index, strict=True):
            where[axis] = int(position)
        taken = self.pixels[tuple(where)]
        left = "".join(a for a in self.axes if a in "YXC")
        order = [left.index(a) for a in ("YXC" if "C" in left else "YX")]
        moved = taken if order == sorted(order) else taken.transpose(order)
        return moved[..., 0] if moved.ndim == 3 and moved.shape[2] == 1 else moved

    def indices(self, planes: str = "all") -> Iterator[tuple[int, ...]]:
        """Positions of the planes that a person asks for, the last axis fastest.

        Parameters
        ----------
        planes : ``all``, a number, or a range ``3:9`` along the last axis, counted from 0, the end left out.
        """
        if not self.extent:
            return iter([()])
        asked = asked_planes(planes, self.extent[-1])
        others = np.ndindex(*self.extent[:-1])
        return iter([(*other, p) for other in others for p in asked])


def asked_planes(planes: str, count: int) -> range:
    """Planes behind ``all``, ``7`` or ``3:9``.

    Raises
    ------
    UserError
        If the text means nothing, or planes that are not there.
    """
    if planes == "all":
        return range(count)
    first, colon, last = planes.partition(":")
    try:
        begin = int(first or 0)
        end = (int(last) if last else count) if colon else begin + 1
    except ValueError:
        raise UserError(f"planes {planes!r}: give all, a number, or a range such as 3:9") from None
    if not 0 <= begin < end <= count:
        raise UserError(f"planes {planes!r}: there are {count}, counted from 0")
    return range(begin, end)


def named_axes(letters: str, shape: Sequence[int]) -> str:
    """What the unknown axes (Q, I) of a TIFF file are; every kind of channels is called C.

    A short last axis holds channels, others count planes: Z, then T.
    """
    axes = ["C" if a in _CHANNELS else a for a in letters]
    unknown = any(a in _UNKNOWN for a in axes)
    short = len(axes) >= 3 and shape[-1] <= MOST_CHANNELS < min(shape[-3:-1])
    if unknown and short and axes[-1] in ("X", *_UNKNOWN):
        axes[-3:] = ["Y", "X", "C"]
    elif not {"Y", "X"} <= set(axes):
        axes[-2:] = ["Y", "X"]
    free = [a for a in "ZTUVW" if a not in axes]
    for i in reversed(range(len(axes))):
        if axes[i] in _UNKNOWN:
            axes[i] = free.pop(0)
    return "".join(axes)


def decode_picture(content: bytes, name: str) -> Picture:
    """As `decode_image`, with the axes that a TIFF file tells."""
    if name.lower().endswith((".tif", ".tiff")):
        return _tiff(io.BytesIO(content), name)
    pixels = decode_image(content, name)
    return Picture(pixels, "YXC"[: pixels.ndim])


def read_picture(path: Path) -> Picture:
    """An image file on disk; large TIFF files are read part by part, when they are asked for.

    Raises
    ------
    UserError
        If the file cannot be read or is no image.
    """
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            return _tiff(path, str(path))
        return decode_picture(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def _tiff(source: Path | io.BytesIO, name: str) -> Picture:
    import tifffile

    try:
        with tifffile.TiffFile(source) as file:
            if not file.series or not file.series[0].size:
                raise ValueError("it holds no pages")
            first = file.series[0]
            lazy = isinstance(source, Path) and first.nbytes > LAZY_BYTES
            pixels = _lazy_tiff(source) if lazy else first.asarray()
            squeezed = [i for i, n in enumerate(first.shape) if n > 1 or first.axes[i] in "YX"]
            axes, shape = first.axes, first.shape
        if len(squeezed) < len(shape):
            pixels = pixels[tuple(slice(None) if i in squeezed else 0 for i in range(len(shape)))]
            axes, shape = "".join(axes[i] for i in squeezed), tuple(shape[i] for i in squeezed)
        return Picture(pixels, named_axes(axes, shape))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except OSError:
        raise
    except Exception as error:
        # Decoders raise all sorts of types on broken files; the reason is passed on.
        reason = str(error) or type(error).__name__
        raise UserError(f"{name} cannot be read as an image: {reason}") from error


def _lazy_tiff(path: Any) -> Any:
    """Memory-mapped where the file is stored plainly, else by its tiles and strips through dask."""
    import tifffile

    try:
        mapped: NDArray[Any] = tifffile.memmap(path, mode="r")
    except ValueError:  # compressed
        import dask.array
        import zarr

        store: Any = tifffile.imread(path, aszarr=True, level=0)
        opened = zarr.open(store, mode="r")
        weakref.finalize(opened, store.close)  # with the last array that reads from it
        return dask.array.from_zarr(opened)
    return mapped
