"""The one door for everything that is read: whatever is wrong with a file becomes one sentence.

Image formats have doors of their own behind this one: `data.files.decode_image` for what is decoded at once,
`data.picture.Guarded` for what is read part by part, `model.weights` and `model.matterport` for weights.
"""

from __future__ import annotations

import json
import os
import stat
import zipfile
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from napari_deepretina.errors import UserError
from napari_deepretina.files import expanded
from napari_deepretina.heap import left

Model = TypeVar("Model", bound=BaseModel)
MOST_PIXELS = 2_000_000_000
"""Of an image or a mask that a file declares; DEEPRETINA_MOST_PIXELS in the environment says otherwise."""
MOST_DECOMPRESSED = 20_000
"""Times that an image or an array may be larger than the file that holds it."""
SMALL = 100_000_000
"""Bytes for which there is always room: to ask the system takes longer than to read so much."""
_LONGEST = 120


def refuse_special(path: Path) -> None:
    """UserError for a pipe, a socket or a device: reading it might wait for ever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # what is wrong with it is told by whoever opens it
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{path} is a pipe, a socket or a device and not a file: save its content as a file")


def read_bytes(path: str | Path) -> bytes:
    """Content of a file; UserError if the system refuses it, or if it is none."""
    place = expanded(path)
    refuse_special(place)
    try:
        return place.read_bytes()
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise UserError(f"{place} cannot be read: it is larger than the memory here") from None


def read_text(path: str | Path) -> str:
    """Content of a UTF-8 text file, with or without a byte-order mark; UserError if it is none."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8") from None


def parse_json(content: bytes | str) -> Any:
    """JSON with or without a byte-order mark; ValueError if it is none."""
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content.removeprefix("\ufeff")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: str | Path, what: str = "valid JSON") -> Any:
    """Content of a JSON file.

    Parameters
    ----------
    what : it should be, for the message.

    Raises
    ------
    UserError
        If it cannot be read, or is no JSON.
    """
    content = read_bytes(path)
    try:
        return parse_json(content)
    except ValueError as error:
        raise UserError(f"{path} is not {what}: {str(error)[:_LONGEST]}") from None


def read_arrays(file: IO[bytes], held: int, what: str) -> dict[str, NDArray[Any]]:
    """Arrays of an npz archive, none of which is a pickle.

    Parameters
    ----------
    file : open at its beginning.
    held : bytes of it.
    what : it is, for the message.

    Raises
    ------
    UserError
        If it is damaged, or declares more than it can hold.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            believed(sum(m.file_size for m in archive.infolist()), held, what)
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except UserError:
        raise
    except Exception as error:
        # numpy, zipfile and zlib raise all sorts of types; the reason is passed on.
        raise UserError(f"{what} is damaged: {first_fault(error)}") from None


def typed(model: type[Model], content: Any, what: str) -> Model:
    """Content as a validated model.

    Parameters
    ----------
    what : the content is of, for the message.

    Raises
    ------
    UserError
        That names the first value which does not fit.
    """
    try:
        return model.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise UserError(f"{what} is damaged: {first_fault(error)}") from None


def faults(error: ValidationError) -> list[str]:
    """What is wrong with each value, as ``where: why``."""
    return [": ".join(x for x in (".".join(map(str, e["loc"])), e["msg"]) if x) for e in error.errors()]


def first_fault(error: Exception) -> str:
    """The first thing that is wrong, short enough for a sentence."""
    told = faults(error)[0] if isinstance(error, ValidationError) else str(error) or type(error).__name__
    return told.splitlines()[0][:_LONGEST]


def believed(size: int, held: int, what: str, *, whole: bool = True) -> None:
    """Check the bytes that something declares to need before any of them is taken.

    Parameters
    ----------
    size : bytes in memory.
    held : bytes of the file that holds it.
    what : it is, for the message.
    whole : whether all of it will be in memory at once.

    Raises
    ------
    UserError
        If so small a file cannot hold so much, or it has no room here.
    """
    if size > max(held, 1000) * MOST_DECOMPRESSED:
        raise UserError(f"{what} declares {size / 1e9:.3g} GB, and holds far less")
    if whole and size > SMALL and size > left():
        raise UserError(f"{what} needs {size / 1e9:.3g} GB of memory, and {left() / 1e9:.3g} GB are free")


def checked_size(shape: tuple[int, int], what: str) -> tuple[int, int]:
    """A declared (height, width), believed only if it is possible and can be held.

    Raises
    ------
    UserError
        If a side is below 1, or there are more than `MOST_PIXELS`.
    """
    told = os.environ.get("DEEPRETINA_MOST_PIXELS", "")
    most = int(told) if told.isdecimal() and len(told) < 19 else MOST_PIXELS
    height, width = shape
    if height < 1 or width < 1:
        raise UserError(f"{what} has no height or width")
    if height * width > most:
        sides = f"{height:,}×{width:,}"[:60]
        raise UserError(
            f"{what} declares {sides} pixels, more than {most:,} in all: it is not believed "
            "(DEEPRETINA_MOST_PIXELS sets another limit)"
        )
    return shape
