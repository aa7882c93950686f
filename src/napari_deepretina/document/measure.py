"""Measurements of nuclei on their pixels: shape, place and intensity, as scikit-image defines them.

The numbers are those of `skimage.measure.regionprops_table`. All nuclei are measured together where that can
be done, which takes a third of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.channel_names import COLOURS
from napari_deepretina.instances import Instances
from napari_deepretina.instances.labels import bounding_boxes

Columns = dict[str, NDArray[Any]]
SHAPE = ("perimeter", "eccentricity", "major_axis", "minor_axis", "solidity")
INTENSITY = ("mean", "min", "max", "total")
_BAND_PIXELS = 2**24
_STEP_OF = np.zeros(50)
"""Length that a border pixel adds to the perimeter, by how many border pixels lie around it."""
_STEP_OF[[5, 7, 15, 17, 25, 27]] = 1.0
_STEP_OF[[21, 33]] = np.sqrt(2)
_STEP_OF[[13, 23]] = (1 + np.sqrt(2)) / 2


def measure(
    labels: NDArray[np.integer],
    channels: Mapping[str, NDArray[Any]] | None = None,
    *,
    pixel_size: tuple[float, float] | None = None,
    unit: str = "µm",
) -> Columns:
    """Measure the nuclei of a label image, or of a stack of them.

    Parameters
    ----------
    labels : (…, H, W) integer, 0 background. In a stack, an id is one object in all its planes.
    channels : name and intensities, (…, H, W) of the same shape, any real dtype.
    pixel_size : height and width of a pixel; given, areas and lengths are also told in the unit.
    unit : ends the names of those columns: ``area_µm²``, ``major_axis_µm``.

    Returns
    -------
    dict
        One row a nucleus, ids rising: ``index``, ``area`` (pixels), ``x0 y0 x1 y1`` (x1 and y1 exclusive),
        ``y`` and ``x`` (centroid), ``perimeter``, ``eccentricity``, ``major_axis``, ``minor_axis`` (pixels),
        ``solidity``, then those in the unit, then ``mean_NAME``, ``min_NAME``, ``max_NAME`` and
        ``total_NAME`` of each channel. In the unit, axes and eccentricity follow pixels that are not square;
        the perimeter, which is not defined on them, is NaN there. Of a stack: ``area`` counts the pixels of
        all planes, ``planes``, ``first`` and ``last`` (along the last plane axis) tell where an object is,
        and its shape is that of its largest plane.

    Raises
    ------
    ValueError
        If a channel has another shape than the labels.
    """
    channels = channels or {}
    for name, values in channels.items():
        if values.shape != labels.shape:
            raise ValueError(f"channel {name!r} has shape {values.shape}, the labels {labels.shape}")
    if labels.ndim == 2:
        return _of_plane(labels, channels, pixel_size, unit)
    planes = []
    for index in np.ndindex(labels.shape[:-2]):
        shown = {name: np.asarray(values[index]) for name, values in channels.items()}
        planes.append((index[-1], _of_plane(np.asarray(labels[index]), shown, pixel_size, unit)))
    return joined(planes)


def measure_instances(
    instances: Instances,
    channels: Mapping[str, Any] | None = None,
    *,
    pixel_size: tuple[float, float] | None = None,
    unit: str = "µm",
    band: int = _BAND_PIXELS,
) -> Columns:
    """The same of the nuclei of one plane, whose label image, and channels, need not fit into memory.

    Parameters
    ----------
    channels : (H, W) arrays, read in bands of rows.
    band : pixels that are painted at a time, about; nuclei are always measured whole.
    """
    height, width = instances.shape
    rows_at_once = max(1, band // max(1, width))
    tops = instances.boxes[:, 1]
    parts: list[Columns] = []
    for top in range(0, max(1, height), rows_at_once):
        here = np.flatnonzero((tops >= top) & (tops < top + rows_at_once))
        if not len(here) and (parts or top + rows_at_once < height):
            continue
        bottom = int(instances.boxes[here, 3].max(initial=top + 1))
        some = replace(instances[here], ids=instances.ids[here])
        rows = slice(top, bottom)
        shown = {name: np.asarray(values[rows]) for name, values in (channels or {}).items()}
        found = _of_plane(some.to_labels(rows), shown, pixel_size, unit)
        for name in ("y0", "y1", "y"):
            found[name] = found[name] + top
        parts.append(found)
    every = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    order = np.argsort(every["index"], kind="stable")
    return {name: values[order] for name, values in every.items()}


def channels_of(image: Any) -> dict[str, Any]:
    """Channels of a plane by name.

    They are called ``intensity``, or ``red``, ``green`` and ``blue``, or ``channel_0``, ``channel_1`` ….

    Parameters
    ----------
    image : (H, W) or (H, W, C), read only where it is sliced by rows.
    """
    if image.ndim == 2:
        return {"intensity": image}
    colours = image.shape[2] in (3, 4) and image.dtype == np.uint8
    names = COLOURS if colours else [f"channel_{k}" for k in range(image.shape[2])]
    return {name: _Channel(image, k) for k, name in enumerate(names)}


@dataclass(frozen=True)
class _Channel:
    """One channel of an image that is not read before it is sliced by rows."""

    image: Any
    number: int

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return np.asarray(self.image[rows])[..., self.number]


def _of_plane(
    labels: NDArray[np.integer],
    channels: Mapping[str, NDArray[Any]],
    pixel_size: tuple[float, float] | None,
    unit: str,
) -> Columns:
    ids, boxes = bounding_boxes(labels)
    rows, columns = np.nonzero(labels)
    place = np.searchsorted(ids, labels[rows, columns])
    count = len(ids)
    area = np.bincount(place, minlength=count)

    def total(values: NDArray[Any]) -> NDArray[np.float64]:
        summed: NDArray[np.float64] = np.bincount(place, weights=values, minlength=count).astype(float)
        return summed

    # coordinates in each box, so that squares of large ones lose no digits
    local_y, local_x = rows - boxes[place, 1], columns - boxes[place, 0]
    y, x = total(local_y) / np.maximum(area, 1), total(local_x) / np.maximum(area, 1)
    dy, dx = local_y - y[place], local_x - x[place]
    spread = [total(a) / np.maximum(area, 1) for a in (dy * dy, dx * dx, dy * dx)]
    major, minor, eccentricity = _ellipses(*spread)
    perimeter, solidity = _perimeters(labels, ids), _solidities(labels, ids, boxes, area)
    found: Columns = {
        "index": ids, "area": area,
        **{name: boxes[:, k] for k, name in enumerate(("x0", "y0", "x1", "y1"))},
        "y": y + boxes[:, 1], "x": x + boxes[:, 0],
        "perimeter": perimeter, "eccentricity": eccentricity, "major_axis": major, "minor_axis": minor,
        "solidity": solidity,
    }  # fmt: skip
    if pixel_size is not None:
        height, width = pixel_size
        yy, xx, yx = spread
        major, minor, eccentricity = _ellipses(yy * height**2, xx * width**2, yx * height * width)
        square = np.isclose(height, width, rtol=1e-6)
        found["eccentricity"] = eccentricity
        found[f"area_{unit}²"] = area * height * width
        found[f"perimeter_{unit}"] = perimeter * (height if square else np.nan)
        found[f"major_axis_{unit}"], found[f"minor_axis_{unit}"] = major, minor
    for name, values in channels.items():
        inside = np.asarray(values)[rows, columns].astype(np.float64)
        # sorted by nucleus, the least and the most of each are those of a stretch
        order = np.argsort(place, kind="stable")
        starts = (
            np.concatenate([[0], np.cumsum(area)[:-1]]).astype(np.intp) if count else np.zeros(0, np.intp)
        )
        summed = total(inside)
        found[f"mean_{name}"] = summed / np.maximum(area, 1)
        found[f"min_{name}"] = np.minimum.reduceat(inside[order], starts) if count else summed
        found[f"max_{name}"] = np.maximum.reduceat(inside[order], starts) if count else summed
        found[f"total_{name}"] = summed
    return found


def _ellipses(
    yy: NDArray[np.float64], xx: NDArray[np.float64], yx: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Major and minor axis, and eccentricity, of the ellipses with these second moments."""
    middle, half = (yy + xx) / 2, np.sqrt(((yy - xx) / 2) ** 2 + yx**2)
    large, small = middle + half, np.maximum(middle - half, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        eccentricity = np.where(large > 0, np.sqrt(1 - small / large), 0.0)
    return 4 * np.sqrt(large), 4 * np.sqrt(small), eccentricity


def _perimeters(labels: NDArray[np.integer], ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Perimeter of each nucleus, by the classes of border pixels that scikit-image's `perimeter` counts."""
    around = np.pad(labels, 2)
    height, width = labels.shape

    def shifted(image: NDArray[Any], dy: int, dx: int) -> NDArray[Any]:
        return image[1 + dy : height + 3 + dy, 1 + dx : width + 3 + dx]

    centre = shifted(around, 0, 0)
    sides = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    border = np.zeros(centre.shape, bool)
    for dy, dx in sides:
        border |= shifted(around, dy, dx) != centre
    border &= centre > 0
    rows, columns = np.nonzero(border)
    own = centre[rows, columns]
    wide_border, wide_labels = np.pad(border, 1), np.pad(centre, 1)
    kind = np.ones(len(rows), np.int64)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if dy or dx:
                there = rows + 1 + dy, columns + 1 + dx
                same = wide_border[there] & (wide_labels[there] == own)
                kind += (2 if dy == 0 or dx == 0 else 10) * same
    return np.bincount(np.searchsorted(ids, own), _STEP_OF[kind], minlength=len(ids)).astype(float)


def _solidities(
    labels: NDArray[np.integer], ids: NDArray[np.int64], boxes: NDArray[np.int64], area: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Share that each nucleus fills of the pixels in its convex hull."""
    filled = np.ones(len(ids))
    for k, (label, (x0, y0, x1, y1)) in enumerate(zip(ids.tolist(), boxes.tolist(), strict=True)):
        inside = labels[y0:y1, x0:x1] == label
        filled[k] = _hull_area(inside)
    return area / np.maximum(filled, 1)


def _hull_area(mask: NDArray[np.bool_]) -> int:
    """Pixels whose centre lies in the convex hull of the middles of a mask's pixel edges, or on it."""
    rows = np.flatnonzero(mask.any(axis=1))
    left = mask[rows].argmax(axis=1)
    right = mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    # twice the coordinates, which are then whole numbers: nothing is rounded
    y = (2 * rows).tolist()
    first, last = (2 * left).tolist(), (2 * right).tolist()
    chain_left = _chain(
        [p for r, c in zip(y, first, strict=True) for p in ((r - 1, c), (r, c - 1), (r + 1, c))]
    )
    chain_right = _chain(
        [p for r, c in zip(y, last, strict=True) for p in ((r - 1, -c), (r, -c - 1), (r + 1, -c))]
    )
    at = np.arange(2 * rows[0], 2 * rows[-1] + 1, 2)
    start, end = _least_column(chain_left, at), -_least_column(chain_right, at)
    return int((end - start + 1).sum())


def _chain(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Lower convex envelope of the column over the row; points come by rising row, but for equal steps."""
    chain: list[tuple[int, int]] = []
    for y, x in sorted(points):
        if chain and chain[-1][0] == y:
            continue  # sorted: the first of a row is the least
        while len(chain) > 1:
            (y0, x0), (y1, x1) = chain[-2], chain[-1]
            if (x1 - x0) * (y - y0) >= (x - x0) * (y1 - y0):
                chain.pop()
            else:
                break
        chain.append((y, x))
    return chain


def _least_column(chain: list[tuple[int, int]], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """First whole pixel column, in pixels, that is not left of an envelope, at even doubled rows."""
    corners = np.array(chain)
    y, x = corners[:, 0], corners[:, 1]
    k = np.clip(np.searchsorted(y, at, side="right") - 1, 0, max(0, len(y) - 2))
    run = y[np.minimum(k + 1, len(y) - 1)] - y[k]
    rise = x[np.minimum(k + 1, len(y) - 1)] - x[k]
    # column ≥ (x + rise · (at − y) / run) / 2, rounded up in whole numbers
    above = x[k] * run + rise * (at - y[k])
    first: NDArray[np.int64] = -((-above) // (2 * run))
    return first


def joined(planes: list[tuple[int, Columns]]) -> Columns:
    """Rows of the same object in several planes as one; planes come with their place along the last axis."""
    every = {name: np.concatenate([c[name] for _, c in planes]) for name in planes[0][1]}
    where = np.concatenate([np.full(len(c["index"]), position) for position, c in planes])
    ids, place = np.unique(every["index"], return_inverse=True)
    count = len(ids)

    def reduced(values: NDArray[Any], how: np.ufunc) -> NDArray[Any]:
        order = np.argsort(place, kind="stable")
        starts = np.flatnonzero(np.diff(place[order], prepend=-1))
        return how.reduceat(values[order], starts) if count else values

    area = np.bincount(place, weights=every["area"], minlength=count)
    largest = np.lexsort((-every["area"], place))
    largest = largest[np.flatnonzero(np.diff(place[largest], prepend=-1))] if count else largest
    joined: Columns = {"index": ids}
    for name, values in every.items():
        if name in ("x0", "y0") or name.startswith("min_"):
            joined[name] = reduced(values, np.minimum)
        elif name in ("x1", "y1") or name.startswith("max_"):
            joined[name] = reduced(values, np.maximum)
        elif name in ("x", "y") or name.startswith("mean_"):
            weighed = np.bincount(place, weights=values * every["area"], minlength=count)
            joined[name] = weighed / np.maximum(area, 1)
        elif name.startswith(("area", "total_")):
            joined[name] = reduced(values, np.add)
        elif name != "index":
            joined[name] = values[largest]
    joined["planes"] = np.bincount(place, minlength=count)
    joined["first"], joined["last"] = reduced(where, np.minimum), reduced(where, np.maximum)
    return joined
