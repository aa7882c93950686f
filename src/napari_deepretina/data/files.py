"""Folders and zip archives seen alike, and image files of every usual kind."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.errors import UserError
from napari_deepretina.files import files_below

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".webp", ".jpg", ".jpeg", ".bmp", ".gif")
_HIDDEN = ("__MACOSX", ".")


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
        for root, folders, files in os.walk(self.path):
            folders[:] = [f for f in folders if not f.startswith(_HIDDEN)]
            inside = Path(root).relative_to(self.path)
            found += [(inside / f).as_posix() for f in files if not f.startswith(_HIDDEN)]
        return sorted(found)

    def read(self, name: str) -> bytes:
        """Content of one file."""
        return (self.path / name).read_bytes()


class Archive:
    """Files in a zip. Each process opens its own handle, so workers may share the value."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        self._zip()

    def _zip(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = (os.getpid(), zipfile.ZipFile(self.path))
            except zipfile.BadZipFile as error:
                raise UserError(f"{self.path} is not a readable zip archive: {error}") from None
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_opened": None}

    def names(self) -> Sequence[str]:
        """All file names, sorted; hidden ones left out."""
        return sorted(
            n
            for n in self._zip().namelist()
            if not n.endswith("/") and not any(p.startswith(_HIDDEN) for p in n.split("/"))
        )

    def read(self, name: str) -> bytes:
        """Content of one file."""
        return self._zip().read(name)


def open_tree(path: str | Path) -> Tree:
    """A folder or zip as a Tree; UserError if it is neither."""
    path = Path(path).expanduser()
    if path.is_dir():
        return Folder(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return Archive(path)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    raise UserError(f"{path} is neither a folder nor a zip archive")


def is_image(name: str) -> bool:
    """Whether a file name has the suffix of an image that we read."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


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
    (H, W), (H, W, 3) or (H, W, 4) for everyday formats, with 16-bit depth kept; TIFF as stored.

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

            pixels = np.asarray(tifffile.imread(io.BytesIO(content)))
            if not pixels.size:
                raise ValueError("it holds no pages")
            return pixels
        return _decode_everyday(content, suffix)
    except Exception as error:
        # Decoders raise all sorts of types on broken files; the reason is passed on.
        reason = str(error) or type(error).__name__
        raise UserError(f"{name} cannot be read as an image: {reason}") from error


def _decode_everyday(content: bytes, suffix: str) -> NDArray[Any]:
    deep_colour = suffix == ".png" and content[24:25] == b"\x10" and content[25:26] in b"\x02\x04\x06"
    if deep_colour:  # Pillow would cut these to 8 bits
        import imagecodecs

        return np.asarray(imagecodecs.png_decode(content))
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        if picture.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):
            return np.asarray(picture.convert("RGB"))
        if picture.mode in ("LA", "PA"):
            return np.asarray(picture.convert("L"))
        return np.asarray(picture)


def read_image(path: str | Path) -> NDArray[Any]:
    """Decode an image file on disk; see `decode_image`."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    return decode_image(content, str(path))
