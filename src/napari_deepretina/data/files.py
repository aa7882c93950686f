"""Folders and zip archives seen alike, JSON, and image files of every usual kind."""

from __future__ import annotations

import io
import os
import re
import struct
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.errors import UserError
from napari_deepretina.files import Identity, files_below, identities
from napari_deepretina.intake import believed, checked_size, read_bytes

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".webp", ".jpg", ".jpeg", ".bmp", ".gif")
MICROSCOPE_SUFFIXES = (".czi", ".nd2", ".lif")
"""Files of microscopes' own programs, read through bioio; see `napari_deepretina.data.microscopes`."""
_HIDDEN = ("__MACOSX", ".")
_ONE_AT_A_TIME = threading.Lock()


def input_files(path: Path, *, apart_from: Path | None = None) -> Iterator[Path]:
    """Files that a command may read when it is given a path: itself, or a folder's annotated images.

    Parameters
    ----------
    apart_from : a folder of results below it, which is left out.
    """
    if not path.is_dir():
        yield path
        return
    for file in files_below(path, apart_from=apart_from):
        if is_image(file.name) or file.name.endswith("split.json") or file.parent.name == "annotations":
            yield file


class Tree(Protocol):
    """Read-only files under a root, named by relative POSIX paths."""

    path: Path

    def names(self) -> Sequence[str]:
        """All file names, sorted; hidden ones left out."""
        ...

    def read(self, name: str) -> bytes:
        """Content of one file."""
        ...


class Folder:
    """Files below a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> Sequence[str]:
        """All file names, sorted; hidden ones left out."""
        found = []
        walked: set[Identity] = set()
        for root, folders, files in os.walk(self.path, followlinks=True):
            here = identities(Path(root, "."))
            if here & walked:  # a link to where we were
                folders[:], files[:] = [], []
            walked |= here
            folders[:] = [f for f in folders if not f.startswith(_HIDDEN) and not f.endswith(".zarr")]
            inside = Path(root).relative_to(self.path)
            found += [(inside / f).as_posix() for f in files if not f.startswith(_HIDDEN)]
        return sorted(found)

    def read(self, name: str) -> bytes:
        """Content of one file; UserError if it cannot be read."""
        return read_bytes(self.path / name)


MOST_UNPACKED = 2_000_000_000
"""Bytes that a file in a zip may unpack to; larger ones are read from the disk."""


class Archive:
    """Files in a zip. Each process opens its own handle, so workers may share the value."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        self._entries: dict[str, str] | None = None
        self._zip()

    def _zip(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = (os.getpid(), zipfile.ZipFile(self.path))
            except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
                raise UserError(f"{self.path} is not a readable zip archive: {error}") from None
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_opened": None, "_entries": None}

    def names(self) -> Sequence[str]:
        """All file names, sorted; hidden ones left out. Backslashes of other systems count as slashes."""
        if self._entries is None:
            entries = {n.replace("\\", "/"): n for n in self._zip().namelist()}
            self._entries = {
                n: entry
                for n, entry in entries.items()
                if not n.endswith("/") and not any(p.startswith(_HIDDEN) for p in n.split("/"))
            }
        return sorted(self._entries)

    def read(self, name: str) -> bytes:
        """Content of one file; UserError if it is encrypted, damaged, or packed in an unknown way."""
        self.names()
        entry = (self._entries or {}).get(name, name)
        try:
            size = self._zip().getinfo(entry).file_size
            believed(size, size, "it")
            if size > MOST_UNPACKED:
                raise ValueError(f"it unpacks to {size / 1e9:.3g} GB, more than {MOST_UNPACKED / 1e9:.3g}")
            return self._zip().read(entry)
        except Exception as error:
            # zipfile raises all sorts of types; the reason is passed on.
            reason = str(error) or type(error).__name__
            raise UserError(f"{self.path}/{name} cannot be read: {reason}") from None


def open_tree(path: str | Path) -> Tree:
    """A folder or zip as a Tree; UserError if it is neither."""
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        return Folder(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return Archive(path)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    raise UserError(f"{path} is neither a folder nor a zip archive")


def is_image(name: str) -> bool:
    """Whether a file name has the suffix of an image that we read."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES + MICROSCOPE_SUFFIXES


def stem(name: str) -> str:
    """File name without folders and suffix; ``.ome.tif`` counts as one suffix."""
    base = PurePosixPath(name).name
    for suffix in (".ome.tif", ".ome.tiff"):
        if base.lower().endswith(suffix):
            return base[: -len(suffix)]
    return PurePosixPath(base).stem


def decode_image(content: bytes, name: str) -> NDArray[Any]:
    """Decode an image file.

    Parameters
    ----------
    content : the file.
    name : its name; the suffix chooses the decoder, the rest serves the error message.

    Returns
    -------
    (H, W) or (H, W, 3) for everyday formats, with 16-bit depth kept and alpha left out; TIFF as stored, but
    colours that are stored otherwise, as in palettes, CMYK or CIELAB, made into RGB.

    Raises
    ------
    UserError
        If the file is empty, broken or of a kind we do not read.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise UserError(
            f"{name}: {suffix or 'no suffix'} is not an image format that is read here "
            f"(known: {' '.join(IMAGE_SUFFIXES)})"
        )
    try:
        if suffix in (".tif", ".tiff"):
            import tifffile

            with tifffile.TiffFile(io.BytesIO(content)) as file:
                refuse_loops(file)
                if not file.series:
                    raise ValueError("it holds no pages")
                believed(file.series[0].nbytes, len(content), "it")
                pixels = file.series[0].asarray() if needs_pillow(file) is None else pillow_pages(content)
            if not pixels.size:
                raise ValueError("it holds no pages")
            return np.asarray(pixels)
        return _decode_everyday(content, suffix)
    except Exception as error:
        # Decoders raise all sorts of types on broken files; the reason is passed on.
        reason = re.sub(r"\s*<_io\.BytesIO[^>]*>", "", str(error)) or type(error).__name__
        raise UserError(f"{name} cannot be read as an image: {reason}") from error


def _decode_everyday(content: bytes, suffix: str) -> NDArray[Any]:
    deep_colour = suffix == ".png" and content[24:25] == b"\x10" and content[25:26] in b"\x02\x04\x06"
    if deep_colour:  # Pillow would cut these to 8 bits
        import imagecodecs

        width, height = struct.unpack(">II", content[16:24])
        believed(8 * width * height, len(content), "it")
        pixels = np.asarray(imagecodecs.png_decode(content))
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        return pixels if channels in (1, 3) else pixels[..., 0] if channels == 2 else pixels[..., :3]
    with opened_with_pillow(content) as picture:
        return as_grey_or_rgb(picture)


@contextmanager
def opened_with_pillow(content: bytes) -> Iterator[Any]:
    """An everyday image, open, however large it is up to `MOST_PIXELS`."""
    from PIL import Image

    with _ONE_AT_A_TIME:  # the limit is Pillow's own, for all threads
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(io.BytesIO(content))
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with picture:
        checked_size((picture.height, picture.width), "it")
        believed(picture.width * picture.height * len(picture.getbands()), len(content), "it")
        yield picture


def as_grey_or_rgb(picture: Any) -> NDArray[Any]:
    """(H, W) or (H, W, 3) of a Pillow image, colours as its mode means them, alpha left out."""
    if picture.mode == "LAB":
        from PIL import ImageCms

        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return np.asarray(ImageCms.profileToProfile(picture, lab, rgb, outputMode="RGB"))
    if picture.mode in ("P", "CMYK", "YCbCr", "HSV", "RGBA", "RGBX", "RGBa", "PA"):
        pixels = np.asarray(picture.convert("RGB"))
        grey = picture.mode in ("P", "PA") and bool((pixels == pixels[..., :1]).all())
        return pixels[..., 0] if grey else pixels
    if picture.mode in ("LA", "La"):
        return np.asarray(picture.convert("L"))
    return np.asarray(picture)


def refuse_loops(file: Any) -> None:
    """ValueError if the pages of an open TIFF file lead in a circle, or over each other: none would end.

    tifffile follows them for as long as they go.
    """
    handle, form = file.filehandle, file.tiff
    handle.seek(8 if form.version == 43 else 4)
    (place,) = struct.unpack(form.offsetformat, handle.read(form.offsetsize))
    total = 0
    while 0 < place < handle.size:
        handle.seek(place)
        found = handle.read(form.tagnosize)
        count = struct.unpack(form.tagnoformat, found)[0] if len(found) == form.tagnosize else 0
        total += form.tagnosize + count * form.tagsize + form.offsetsize
        if total > handle.size:
            raise ValueError("its pages lead in a circle or lie over each other")
        handle.seek(place + form.tagnosize + count * form.tagsize)
        following = handle.read(form.offsetsize)
        if len(following) < form.offsetsize:
            return  # tifffile takes what is there
        (place,) = struct.unpack(form.offsetformat, following)


def needs_pillow(file: Any) -> str | None:
    """Colours of a TIFF file that tifffile leaves as stored, by name; None if they are RGB or grey."""
    page = file.pages.first
    photometric = getattr(page.photometric, "name", "")
    if photometric == "PALETTE" and page.bitspersample <= 8:
        return "PALETTE"
    if photometric in ("CIELAB", "ICCLAB") and page.bitspersample == 8:
        return str(photometric)
    if photometric == "SEPARATED" and page.bitspersample == 8 and page.samplesperpixel == 4:
        return "CMYK"
    if photometric == "YCBCR" and getattr(page.compression, "name", "") not in ("JPEG", "OJPEG"):
        return "YCBCR"
    return None


def pillow_pages(content: bytes) -> NDArray[Any]:
    """(H, W[, 3]), or (pages, H, W[, 3]) where a TIFF file has several of the same size."""
    from PIL import ImageSequence

    with opened_with_pillow(content) as picture:
        pages = [as_grey_or_rgb(p) for p in ImageSequence.Iterator(picture)]
    same = [p for p in pages if p.shape == pages[0].shape]
    return pages[0] if len(same) == 1 else np.stack(same)


def decode_labels(content: bytes, name: str) -> NDArray[Any]:
    """As `decode_image`, for label images: the numbers of a palette's colours are the ids."""
    if PurePosixPath(name).suffix.lower() in (".png", ".gif", ".bmp", ".tif", ".tiff"):
        try:
            with opened_with_pillow(content) as picture:
                if picture.mode == "P":
                    return np.asarray(picture)
        except Exception:
            # What it is instead, or what is wrong with it, the ordinary way tells.
            return decode_image(content, name)
    return decode_image(content, name)


def encode_tiff(image: NDArray[Any], **options: Any) -> memoryview:
    """A TIFF file as bytes, with tifffile's options.

    Written straight to a disk that fills up, numpy leaves out the end of an image without a word.
    """
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getbuffer()


def read_image(path: str | Path) -> NDArray[Any]:
    """Decode an image file on disk; see `decode_image`."""
    path = Path(path)
    return decode_image(read_bytes(path), str(path))
