"""The competition's CSV: ``ImageId,EncodedPixels``, one row an object."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from napari_deepretina.data.rle_csv import COLUMNS, SHAPE_COLUMNS
from napari_deepretina.files import open_csv, written_whole
from napari_deepretina.instances import Instances, rle


def write_rle_csv(images: Iterable[tuple[str, Instances]], path: Path, *, with_shape: bool = False) -> None:
    """Write the objects of several images; one without objects gets one row with no pixels.

    A pixel belongs to one object only: where those of several classes meet, to the one of the highest score.

    With `with_shape`, columns Height and Width follow, so that the file can be read by itself; the
    competition takes two columns only.
    """
    with written_whole(path) as part, open_csv(part) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS + (SHAPE_COLUMNS if with_shape else ()))
        for name, instances in images:
            shape = instances.shape if with_shape else ()
            if len(set(instances.classes.tolist())) > 1:
                instances = Instances.from_labels(instances.to_labels())
            rows.writerows((name, string, *shape) for string in (rle.encode(instances) or [""]))
