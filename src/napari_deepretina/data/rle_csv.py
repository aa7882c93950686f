"""Reading the competition's CSV: ``ImageId,EncodedPixels``, one row an object."""

from __future__ import annotations

import csv
from pathlib import Path

from napari_deepretina.errors import UserError
from napari_deepretina.instances import Instances, rle

COLUMNS = ("ImageId", "EncodedPixels")


def read_rle_csv(path: Path) -> dict[str, list[str]]:
    """Strings of each image, in the file's order; images without objects have an empty list.

    Raises
    ------
    UserError
        If the file cannot be read or lacks the two columns.
    """
    strings: dict[str, list[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not set(COLUMNS) <= set(rows.fieldnames or ()):
                raise UserError(f"{path} is not an RLE CSV: its first line must name ImageId and "
                                "EncodedPixels")
            csv.field_size_limit(2**31 - 1)
            for row in rows:
                mine = strings.setdefault(row["ImageId"], [])
                if row["EncodedPixels"]:
                    mine.append(row["EncodedPixels"])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from None
    return strings


def decode_objects(strings: list[str], shape: tuple[int, int], name: str) -> Instances:
    """Objects of one image, or a UserError that names image, object and value."""
    try:
        return rle.decode(strings, shape)
    except ValueError as error:
        raise UserError(f"image {name!r}, {error}") from None

