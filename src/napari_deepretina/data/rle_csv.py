"""Reading the competition's CSV: ``ImageId,EncodedPixels``, one row an object."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from napari_deepretina.errors import UserError
from napari_deepretina.instances import Instances, rle
from napari_deepretina.intake import checked_size, read_text

COLUMNS = ("ImageId", "EncodedPixels")
SHAPE_COLUMNS = ("Height", "Width")


def read_rle_csv(path: Path) -> dict[str, list[str]]:
    """Strings of each image, in the file's order; images without objects have an empty list.

    Raises
    ------
    UserError
        If the file cannot be read or lacks the two columns.
    """
    strings: dict[str, list[str]] = {}
    for row in _rows(path):
        mine = strings.setdefault(row["ImageId"], [])
        if row["EncodedPixels"]:
            mine.append(row["EncodedPixels"])
    return strings


def read_shapes(path: Path) -> dict[str, tuple[int, int]]:
    """(height, width) of the images for which the columns Height and Width tell it.

    Raises
    ------
    UserError
        If the file cannot be read or a size is not a positive integer.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for row in _rows(path):
        values = [row.get(c) for c in SHAPE_COLUMNS]
        if not all(values):
            continue
        if not all(v.isdecimal() and len(v) <= 10 and int(v) > 0 for v in values if v):
            told = [str(v)[:20] for v in values]
            raise UserError(f"{path}: image {row['ImageId']!r} has Height, Width {told}")
        height, width = int(values[0] or 0), int(values[1] or 0)
        shapes[row["ImageId"]] = checked_size((height, width), f"{path}: image {row['ImageId']!r}")
    return shapes


def _rows(path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(2**31 - 1)
    try:
        rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
        if not set(COLUMNS) <= set(rows.fieldnames or ()):
            raise UserError(f"{path} is not an RLE CSV: its first line must name ImageId and EncodedPixels")
        yield from rows
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from None


def decode_objects(strings: list[str], shape: tuple[int, int], name: str) -> Instances:
    """Objects of one image, or a UserError that names image, object and value.

    As in the competition, a pixel may belong to one object only.
    """
    try:
        instances = rle.decode(strings, shape)
    except ValueError as error:
        raise UserError(f"image {name!r}, {error}") from None
    if (both := instances.overlap()) is not None:
        raise UserError(f"image {name!r}, objects {both[0] + 1} and {both[1] + 1} share pixels")
    return instances
