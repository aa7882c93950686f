"""The competition's CSV: ``ImageId,EncodedPixels``, one row an object."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from napari_deepretina.data.rle_csv import COLUMNS
from napari_deepretina.files import written_whole
from napari_deepretina.instances import Instances, rle


def write_rle_csv(images: Iterable[tuple[str, Instances]], path: Path) -> None:
    """Write the objects of several images; one without objects gets one row with no pixels."""
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for name, instances in images:
            rows.writerows((name, string) for string in (rle.encode(instances) or [""]))
