"""Parts of an image that a person marked, by name: drawn in napari, or in GeoJSON as QuPath writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator

from napari_deepretina.errors import UserError
from napari_deepretina.files import expanded
from napari_deepretina.intake import parse_json, read_bytes

Ring = tuple[tuple[float, float], ...]
SUFFIX = ".geojson"
MOST_CORNERS = 1_000_000
"""Of all regions of a file together."""
FARTHEST = 1e7
"""Pixels from an image's corner; no image is so large."""


class Region(BaseModel):
    """A part of an image.

    Attributes
    ----------
    name : stands in the table of nuclei.
    rings : closed lines of (x, y) corners in pixels, the upper left corner of the image being (0, 0) and the
        middle of its first pixel (0.5, 0.5). What lies inside an odd number of them belongs to the region,
        so that holes are rings, too.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    rings: tuple[Ring, ...]

    @field_validator("rings")
    @classmethod
    def _real(cls, rings: tuple[Ring, ...]) -> tuple[Ring, ...]:
        for ring in rings:
            corners = np.array(ring, float).reshape(-1, 2)
            if len(corners) < 3 or not np.isfinite(corners).all() or np.abs(corners).max() > FARTHEST:
                raise ValueError("a region needs at least three corners, none of them far outside any image")
        if not rings:
            raise ValueError("a region needs an outline")
        return rings

    def contains(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which of (N, 2) points (x, y) lie inside."""
        from skimage.measure import points_in_poly

        inside = np.zeros(len(points), bool)
        for ring in self.rings:
            inside ^= points_in_poly(points, np.array(ring)) if len(points) else inside
        return inside

    def distance(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Of (N, 2) points (x, y), to the nearest place on the outline."""
        best = np.full(len(points), np.inf)
        for ring in self.rings:
            start = np.array(ring)
            along = np.roll(start, -1, axis=0) - start
            length = np.maximum((along**2).sum(axis=1), 1e-12)
            for k, point in enumerate(points):
                share = np.clip(((point - start) * along).sum(axis=1) / length, 0, 1)
                gaps = start + share[:, None] * along - point
                best[k] = min(best[k], float(np.sqrt((gaps**2).sum(axis=1).min())))
        return best

    def box(self, shape: tuple[int, int]) -> tuple[int, int, int, int] | None:
        """(y0, x0, y1, x1), exclusive, of its pixels in an image of (height, width); None if it has none."""
        corners = np.concatenate([np.array(r) for r in self.rings])
        low = np.clip(np.floor(corners.min(axis=0)), 0, shape[::-1]).astype(int)
        high = np.clip(np.ceil(corners.max(axis=0)), 0, shape[::-1]).astype(int)
        return None if (high <= low).any() else (int(low[1]), int(low[0]), int(high[1]), int(high[0]))


def names_at(
    regions: Sequence[Region], x: NDArray[np.floating], y: NDArray[np.floating], area: NDArray[Any]
) -> NDArray[Any]:
    """Name of the region that each nucleus lies in.

    Parameters
    ----------
    x, y : (N,) centroids as the table has them, in which the middle of the first pixel is (0, 0).
    area : (N,) pixels.

    Returns
    -------
    (N,) str objects: the first region that holds the centroid; else the nearest one that a round nucleus
    of this area reaches; "" where there is none.
    """
    points = np.stack([x, y], axis=1).astype(float).reshape(-1, 2) + 0.5
    names = np.full(len(points), "", object)
    free = np.isfinite(points).all(axis=1)
    for region in regions:
        inside: NDArray[np.bool_] = np.zeros(len(points), bool)
        inside[np.flatnonzero(free)] = region.contains(points[free])
        names[inside] = region.name
        free &= ~inside
    rest = np.flatnonzero(free)
    nearest = np.sqrt(np.asarray(area, float)[rest] / np.pi)
    for region in regions:
        gaps = region.distance(points[rest])
        closer = gaps <= nearest
        names[rest[closer]] = region.name
        nearest = np.where(closer, gaps, nearest)
    return names


def with_regions(table: Mapping[str, NDArray[Any]], regions: Sequence[Region]) -> dict[str, NDArray[Any]]:
    """A table of nuclei with a column ``region``, where there are regions and centroids."""
    if not regions or not {"x", "y", "area"} <= set(table):
        return dict(table)
    return {**table, "region": names_at(regions, table["x"], table["y"], table["area"])}


def inside_any(regions: Sequence[Region], points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which of (N, 2) points (x, y) lie in at least one region; all if there are none."""
    if not regions:
        return np.ones(len(points), bool)
    inside: NDArray[np.bool_] = np.any([region.contains(points) for region in regions], axis=0)
    return inside


def read_regions(path: Path) -> tuple[Region, ...]:
    """The polygons of a GeoJSON file; points and lines in it mark no region.

    Names are those that QuPath shows: of the object, else of its class, else a number.

    Raises
    ------
    UserError
        If the file cannot be read, is no GeoJSON, or holds no polygon.
    """
    try:
        content = parse_json(read_bytes(expanded(path)))
    except UserError:
        raise
    except RuntimeError as error:  # ~nobody
        raise UserError(f"{path} cannot be read: {error}") from None
    except ValueError:
        raise UserError(f"{path} is not GeoJSON: export regions from QuPath as GeoJSON") from None
    found: list[Region] = []
    corners = 0
    try:
        for properties, geometry in _features(content):
            rings = tuple(_rings(geometry))
            corners += sum(map(len, rings))
            if corners > MOST_CORNERS:
                raise UserError(f"{path} has regions of more than {MOST_CORNERS:,} corners: simplify them")
            if rings:
                found.append(Region(name=_name(properties) or f"region {len(found) + 1}", rings=rings))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if hasattr(error, "errors") else "its geometry is damaged"
        raise UserError(f"{path} cannot be read as GeoJSON: {reason}") from None
    if not found:
        raise UserError(f"{path} holds no polygon: regions are closed outlines")
    return tuple(found)


def _features(content: Any) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(properties, geometry) of everything in the file."""
    if isinstance(content, list):
        for part in content:
            yield from _features(part)
    elif content["type"] == "FeatureCollection":
        yield from _features(list(content["features"]))
    elif content["type"] == "Feature":
        if content.get("geometry"):
            yield dict(content.get("properties") or {}), dict(content["geometry"])
    else:
        yield {}, dict(content)


def _rings(geometry: Mapping[str, Any]) -> Iterator[Ring]:
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _rings(part)
    elif kind in ("Polygon", "MultiPolygon"):
        polygons = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
        for ring in (ring for polygon in polygons for ring in polygon):
            corners = tuple((float(point[0]), float(point[1])) for point in ring)
            yield corners[:-1] if corners[:1] == corners[-1:] and len(corners) > 1 else corners


def _name(properties: Mapping[str, Any]) -> str:
    kind = properties.get("classification")
    named = properties.get("name") or (kind.get("name") if isinstance(kind, Mapping) else None)
    return " ".join(str(named).split()) if named else ""


def to_geojson(regions: Sequence[Region]) -> str:
    """Regions as a FeatureCollection that `read_regions` and QuPath read."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "MultiPolygon", "coordinates": [[[*r, r[0]]] for r in region.rings]},
            "properties": {"objectType": "annotation", "name": region.name},
        }
        for region in regions
    ]
    return json.dumps({"type": "FeatureCollection", "features": features})
