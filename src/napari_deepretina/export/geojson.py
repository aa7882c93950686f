"""Outlines as GeoJSON, which QuPath imports as detections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.export.outlines import outlines, rings
from napari_deepretina.files import written_whole
from napari_deepretina.instances import Instances


def write_geojson(instances: Instances, path: Path, classes: Sequence[str] = ("nucleus",)) -> None:
    """Write the objects of one image; see `geojson_content`."""
    content = geojson_content(instances, classes)
    with written_whole(path) as part:
        part.write_text(json.dumps(content), "utf-8")


def geojson_content(instances: Instances, classes: Sequence[str] = ("nucleus",)) -> dict[str, Any]:
    """The objects as a FeatureCollection, one feature each, ids rising.

    Coordinates are (x, y) pixels, the upper left corner of the image being (0, 0), as in QuPath. ``name`` is
    the object's id in the label image, ``classification`` its class, and ``measurements`` hold its area in
    pixels and, where it is known, its score. Objects in several pieces are MultiPolygons; holes are kept.
    """
    features = []
    names = ("", *classes)
    parts = [(int(instances.ids[k]), k, window, mask) for k, (window, mask) in enumerate(instances)]
    for label, k, window, mask in sorted(parts, key=lambda part: part[0]):
        kind = int(instances.classes[k])
        score = float(instances.scores[k])
        measurements: dict[str, float] = {"Area px": int(np.count_nonzero(mask))}
        if not np.isnan(score):
            measurements["Score"] = round(score, 6)
        features.append(
            {
                "type": "Feature",
                "geometry": _geometry(mask, (window[1].start, window[0].start)),
                "properties": {
                    "objectType": "detection",
                    "name": str(label),
                    "classification": {"name": names[kind] if kind < len(names) else "nucleus"},
                    "measurements": measurements,
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


def _geometry(mask: NDArray[np.bool_], corner: tuple[int, int]) -> dict[str, Any]:
    """A Polygon, or a MultiPolygon of several pieces, each followed by the holes in it."""
    from skimage.measure import points_in_poly

    outer = outlines(mask)
    polygons = [[ring] for ring in outer]
    for hole in rings(mask, holes=True):
        home = next((k for k, ring in enumerate(outer) if points_in_poly(hole[:1], ring)[0]), 0)
        polygons[home].append(hole)
    placed = [[_closed(ring + corner) for ring in polygon] for polygon in polygons]
    if len(placed) == 1:
        return {"type": "Polygon", "coordinates": placed[0]}
    return {"type": "MultiPolygon", "coordinates": placed}


def _closed(ring: NDArray[np.float64]) -> list[list[float]]:
    return [*ring.tolist(), ring[0].tolist()]
