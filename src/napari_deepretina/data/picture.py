"""Image files with the meaning of their axes: planes of a stack, channels, rows and columns."""

from __future__ import annotations

import io
import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.channel_names import of_ome
from napari_deepretina.data.channels import MOST_CHANNELS
from napari_deepretina.data.files import (
    MICROSCOPE_SUFFIXES,
    decode_image,
    needs_pillow,
    pillow_pages,
    refuse_loops,
)
from napari_deepretina.data.guarded import Guarded
from napari_deepretina.data.microscopes import open_microscope_file
from napari_deepretina.errors import UserError
from napari_deepretina.intake import believed, read_bytes, refuse_special

MICROMETRES = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("in", "inch"), 25_400.0),
    **dict.fromkeys(("Å", "angstrom"), 1e-4),
}
"""Units of length as files and programs write them."""
LARGEST_PIXEL = 100.0
"""In µm: more is a scanner's resolution, not a microscope's."""
UNSURE = 5
"""An axis of at most so many positions, which a file does not name, may hold channels as well as planes."""
LAZY_BYTES = 256_000_000
"""TIFF files on disk that decode to more are read part by part."""
MOST_PLANES, MOST_PIXELS_OF_A_PLANE = 10_000_000, 10**12
"""Of a picture that is read part by part; the largest slides have 10¹¹ pixels."""
_CHANNELS, _UNKNOWN = "CS", "QI"


@dataclass(frozen=True)
class Wanted:
    """What a person says of files that do not say it themselves.

    Attributes
    ----------
    axes : a letter for each axis, e.g. CYX; empty where the file tells.
    series : which of several series, scenes or appended pages, counted from 0.
    """

    axes: str = ""
    series: int = 0


AS_TOLD = Wanted()
"""The first series, with the axes that the file tells."""


@dataclass(frozen=True)
class Picture:
    """An image, or a stack of images.

    Attributes
    ----------
    pixels : array of numpy, dask or zarr.
    axes : a letter for each axis: Y and X, C for channels or RGB, at most one of these; any others, such as Z
        and T, are counted through by planes.
    pixel_size : height and width of a pixel in µm, if the file tells them.
    notes : what a person should know of how it was read.
    channels : names of the channels, if the file tells them.
    """

    pixels: Any
    axes: str
    pixel_size: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(self.pixels.shape)
        letters = set(self.axes)
        if len(self.axes) != len(shape) or len(letters) != len(shape) or not letters >= {"Y", "X"}:
            raise UserError(
                f"axes {self.axes!r} do not fit an image of shape {shape}: give each a letter, e.g. ZYX"
            )
        planes, pixels = math.prod(self.extent), math.prod(self.height_width)
        if planes > MOST_PLANES or pixels > MOST_PIXELS_OF_A_PLANE:
            raise UserError(f"it declares {planes:,} planes of {pixels:,} pixels: that is not believed")

    @property
    def plane_axes(self) -> tuple[int, ...]:
        """Positions of the axes that planes are counted along."""
        return tuple(i for i, a in enumerate(self.axes) if a not in "YXC")

    @property
    def extent(self) -> tuple[int, ...]:
        """Planes along each of them; () for a single image."""
        return tuple(int(self.pixels.shape[i]) for i in self.plane_axes)

    @property
    def channel_count(self) -> int:
        """Channels, or samples of a colour; 1 without such an axis."""
        return int(self.pixels.shape[self.axes.index("C")]) if "C" in self.axes else 1

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

    Raises
    ------
    UserError
        If an unknown axis before the last two is so short that it may hold channels as well as planes.
    """
    axes = ["C" if a in _CHANNELS else a for a in letters]
    unknown = any(a in _UNKNOWN for a in axes)
    short = len(axes) >= 3 and shape[-1] <= MOST_CHANNELS < min(shape[-3:-1])
    if unknown and short and axes[-1] in ("X", *_UNKNOWN):
        axes[-3:] = ["Y", "X", "C"]
    elif not {"Y", "X"} <= set(axes):
        axes[-2:] = ["Y", "X"]
    unsure = [i for i, a in enumerate(axes) if a in _UNKNOWN and shape[i] <= UNSURE]
    if unsure and "C" not in axes:
        asked = [
            "".join(c if i == unsure[0] else "T" if a in _UNKNOWN else a for i, a in enumerate(axes))
            for c in "CZ"
        ]
        raise UserError(
            f"an axis of {shape[unsure[0]]} may hold channels or planes, and the file does not tell: say "
            f"what its axes are, {asked[0]} or {asked[1]} (--axes)"
        )
    free = [a for a in "ZTUVW" if a not in axes]
    for i in reversed(range(len(axes))):
        if axes[i] in _UNKNOWN:
            axes[i] = free.pop(0)
    return "".join(axes)


def decode_picture(content: bytes, name: str, wanted: Wanted = AS_TOLD) -> Picture:
    """As `decode_image`, with the axes that a TIFF file tells."""
    if name.lower().endswith((".tif", ".tiff")):
        return _tiff(io.BytesIO(content), name, wanted)
    if name.lower().endswith(MICROSCOPE_SUFFIXES):
        raise UserError(f"{name} cannot be read inside an archive: unpack it")
    pixels = decode_image(content, name)
    return Picture(pixels, wanted.axes or "YXC"[: pixels.ndim])


def read_picture(path: Path, wanted: Wanted = AS_TOLD) -> Picture:
    """An image file on disk; large TIFF files are read part by part, when they are asked for.

    Raises
    ------
    UserError
        If the file cannot be read, is no image, or does not tell what its axes are.
    """
    refuse_special(path)
    kind = path.suffix.lower()
    if kind in (".tif", ".tiff"):
        try:
            return _tiff(path, str(path), wanted)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if kind in MICROSCOPE_SUFFIXES:
        pixels, axes, size, scenes, names = open_microscope_file(path, wanted.series)
        picture = _picture(pixels, axes, wanted, size, _told_of_series(scenes, wanted, "scenes"))
        return replace(picture, channels=names)
    return decode_picture(read_bytes(path), str(path), wanted)


def _tiff(source: Path | io.BytesIO, name: str, wanted: Wanted) -> Picture:
    import tifffile

    try:
        with tifffile.TiffFile(source) as file:
            refuse_loops(file)
            if not file.series or not file.series[0].size:
                raise ValueError("it holds no pages")
            if wanted.series >= len(file.series):
                raise UserError(
                    f"it holds {len(file.series)} series, counted from 0: there is no {wanted.series}"
                )
            chosen = file.series[wanted.series]
            notes = _told_of_series(len(file.series), wanted, "series")
            size = pixel_size_of(file)
            axes = chosen.axes
            if needs_pillow(file):
                content = source.getvalue() if isinstance(source, io.BytesIO) else read_bytes(source)
                pixels: Any = pillow_pages(content)
                axes = {2: "YX", 3: "YXC" if pixels.shape[-1] == 3 else "QYX", 4: "QYXC"}[pixels.ndim]
            else:
                lazy = isinstance(source, Path) and chosen.nbytes > LAZY_BYTES
                held = source.stat().st_size if isinstance(source, Path) else len(source.getvalue())
                believed(chosen.nbytes, held, "it", whole=not lazy)
                pixels = _lazy_tiff(source, wanted.series) if lazy else chosen.asarray()
            if getattr(file.pages.first.photometric, "name", "") == "MINISWHITE":
                pixels, notes = _turned(pixels), (*notes, "dark and bright change places, as the file says")
            if _has_alpha(file.pages.first, axes, pixels.shape):
                pixels = pixels[..., :-1]
            names = of_ome(file.ome_metadata) if file.is_ome else ()
        return replace(_picture(pixels, axes, wanted, size, notes), channels=names)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except OSError:
        raise
    except Exception as error:
        # Decoders raise all sorts of types on broken files; the reason is passed on.
        reason = str(error) or type(error).__name__
        raise UserError(f"{name} cannot be read as an image: {reason}") from error


def _picture(
    pixels: Any, axes: str, wanted: Wanted, size: tuple[float, float] | None, notes: tuple[str, ...]
) -> Picture:
    """With axes of one position left out, unless a person names them all."""
    given = wanted.axes
    if len(given) == len(axes):
        axes, given = given, ""
    shape = pixels.shape
    squeezed = [i for i, n in enumerate(shape) if n > 1 or axes[i] in "YX"]
    if len(squeezed) < len(shape):
        pixels = pixels[tuple(slice(None) if i in squeezed else 0 for i in range(len(shape)))]
        axes, shape = "".join(axes[i] for i in squeezed), tuple(shape[i] for i in squeezed)
    if not given:
        named = axes if wanted.axes else named_axes(axes, shape)
        if any(a in _UNKNOWN for a in axes[: len(axes) - 2]):
            notes = (
                *notes,
                f"the file does not name its axes: they were taken for {named} (--axes says others)",
            )
        given = named
    return Picture(pixels, given, size, notes)


def _told_of_series(count: int, wanted: Wanted, what: str) -> tuple[str, ...]:
    if count < 2:
        return ()
    return (f"the file holds {count} {what}: number {wanted.series} was taken (--series takes another)",)


def _turned(pixels: Any) -> Any:
    """Dark and bright exchanged, within the range of the type or, for real numbers, of the image."""
    if pixels.dtype.kind == "u":
        return np.iinfo(pixels.dtype).max - pixels
    if pixels.dtype.kind == "b":
        return ~pixels
    return pixels.max() + pixels.min() - pixels if pixels.dtype.kind == "f" else -1 - pixels


def _has_alpha(page: Any, axes: str, shape: Sequence[int]) -> bool:
    """Whether the last of a page's samples is transparency."""
    extra = [getattr(e, "name", "") for e in page.extrasamples]
    samples = shape[-1] if axes.endswith(("S", "C")) and len(shape) > 2 else 0
    return samples in (2, 4) and extra[-1:] in (["ASSOCALPHA"], ["UNASSALPHA"])


def pixel_size_of(file: Any) -> tuple[float, float] | None:
    """Height and width of a pixel in µm, as OME, ImageJ or the resolution of a TIFF file tells them."""
    try:
        if file.is_ome and (told := possible_size(_ome_pixel_size(file.ome_metadata))):
            return told
        page = file.pages.first
        (x, x_unit), (y, y_unit) = page.tags["XResolution"].value, page.tags["YResolution"].value
        if file.is_imagej:
            unit = str((file.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
        else:  # dots an inch are what programs write that know no size
            unit = {3: "cm"}.get(int(getattr(page.resolutionunit, "value", page.resolutionunit)), "")
        size = MICROMETRES[unit] * y_unit / y, MICROMETRES[unit] * x_unit / x
        return possible_size(size) if max(size) < LARGEST_PIXEL else None
    except (KeyError, AttributeError, TypeError, ValueError, ArithmeticError):
        return None


def possible_size(size: tuple[float, float] | None) -> tuple[float, float] | None:
    """Height and width of a pixel as metadata tell them, if they are numbers above zero."""
    return size if size and all(math.isfinite(s) and s > 0 for s in size) else None


def _ome_pixel_size(text: str | None) -> tuple[float, float] | None:
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(text or "<none/>")
    except ElementTree.ParseError:  # what the image shows does not depend on it
        return None
    for element in root.iter():
        if element.tag.endswith("}Pixels"):
            sides = []
            for side in "YX":
                value = element.get(f"PhysicalSize{side}")
                factor = MICROMETRES.get(element.get(f"PhysicalSize{side}Unit", "µm"))
                if value is None or factor is None:
                    return None
                sides.append(float(value) * factor)
            return sides[0], sides[1]
    return None


def _lazy_tiff(path: Any, series: int) -> Any:
    """Memory-mapped where the file is stored plainly, else by its tiles and strips through dask."""
    import tifffile

    try:
        mapped: NDArray[Any] = tifffile.memmap(path, mode="r", series=series)
    except ValueError:  # compressed
        import dask.array
        import zarr

        store: Any = tifffile.imread(path, aszarr=True, level=0, series=series)
        opened: Any = zarr.open(store, mode="r")
        weakref.finalize(opened, store.close)  # with the last array that reads from it
        return dask.array.from_array(
            Guarded(opened, str(path), opened.chunks), chunks=opened.chunks, name=False
        )
    return mapped
