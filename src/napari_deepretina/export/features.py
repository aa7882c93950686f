"""The table of nuclei as CSV, for spreadsheets and pandas."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from napari_deepretina.files import harmless, open_csv, written_whole


def write_features(images: Iterable[tuple[str, Mapping[str, Any]]], path: Path) -> None:
    """One row a nucleus, the image's name first, then the columns of its features, safe for spreadsheets.

    Parameters
    ----------
    images : (name, features), each feature a sequence with one value a nucleus.
    """
    tables = list(images)
    columns = list(dict.fromkeys(c for _, features in tables for c in features))
    with written_whole(path) as part, open_csv(part) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", *columns])
        for name, features in tables:
            count = max((len(v) for v in features.values()), default=0)
            values = [features.get(c, [""] * count) for c in columns]
            rows.writerows(map(harmless, [name, *row]) for row in zip(*values, strict=True))


def cell(value: Any) -> Any:
    """A number as a table shows it: no more digits than it is worth, and nothing where there is none."""
    if isinstance(value, float):
        return "" if value != value else float(f"{value:.7g}")
    return value
