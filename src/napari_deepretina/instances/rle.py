"""Run-length encoding as the 2018 Data Science Bowl defined it.

Pixels are numbered from 1 down the columns; an object is "start length start length …".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.instances.final import Instances


def runs_of(
    mask: NDArray[np.bool_], offset: tuple[int, int], height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Runs of one object given inside its box.

    Parameters
    ----------
    mask : (h, w) bool.
    offset : (y0, x0) of the box in the image.
    height : of the image, in pixels.

    Returns
    -------
    starts : (R,) int64, numbered from 1 down the columns of the whole image.
    lengths : (R,) int64.
    """
    # One empty row under each column ends its runs, so columns can be scanned as one line.
    columns = np.zeros((mask.shape[1], mask.shape[0] + 2), np.int8)
    columns[:, 1:-1] = mask.T
    edges = np.diff(columns, axis=1)
    column, start = np.nonzero(edges == 1)
    _, stop = np.nonzero(edges == -1)
    starts = (offset[1] + column) * height + offset[0] + start + 1
    lengths = stop - start
    # A run that reaches the image's bottom goes on at the top of the next column.
    joined = np.flatnonzero(starts[1:] == starts[:-1] + lengths[:-1]) + 1
    if len(joined):
        first = np.delete(np.arange(len(starts)), joined)
        lengths = np.add.reduceat(lengths, first)
        starts = starts[first]
    return starts.astype(np.int64), lengths.astype(np.int64)


def encode(instances: Instances) -> list[str]:
    """RLE strings of the objects, in their order."""
    strings = []
    for (rows, columns), mask in instances:
        runs = np.stack(runs_of(mask, (rows.start, columns.start), instances.shape[0]), axis=1)
        strings.append(" ".join(map(str, runs.ravel().tolist())))
    return strings


def decode(strings: list[str], shape: tuple[int, int]) -> Instances:
    """Objects from RLE strings.

    Parameters
    ----------
    strings : one per object; empty ones are no objects.
    shape : (height, width) of the image.

    Raises
    ------
    ValueError
        If a string is not pairs of positive integers or runs past the image; the message
        gives the object's position and the offending value.
    """
    height, width = shape
    boxes, masks = [], []
    for number, string in enumerate(strings, start=1):
        if not string.strip():
            continue
        starts, lengths = _parse(string, number, height * width)
        x0, x1 = (starts[0]) // height, (starts + lengths - 1).max() // height + 1
        frame = np.zeros((x1 - x0) * height + 1, np.int8)
        np.add.at(frame, starts - x0 * height, 1)
        np.add.at(frame, starts + lengths - x0 * height, -1)
        columns = (np.cumsum(frame[:-1]) > 0).reshape(x1 - x0, height)
        rows = np.flatnonzero(columns.any(axis=0))
        y0, y1 = rows[0], rows[-1] + 1
        boxes.append((x0, y0, x1, y1))
        masks.append(np.ascontiguousarray(columns[:, y0:y1].T))
    n = len(masks)
    return Instances(
        np.asarray(boxes, np.int64).reshape(-1, 4),
        tuple(masks),
        np.ones(n, np.float32),
        np.ones(n, np.int32),
        shape,
    )


def _parse(string: str, number: int, pixels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted zero-based starts and the lengths of one object's runs, checked."""
    try:
        values = np.array(string.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError(f"object {number}: {string[:40]!r} is not a list of integers") from None
    if len(values) % 2:
        raise ValueError(f"object {number}: {len(values)} numbers; runs come in pairs")
    starts, lengths = values[::2] - 1, values[1::2]
    bad = np.flatnonzero((starts < 0) | (lengths < 1) | (starts + lengths > pixels))
    if len(bad):
        run = f"{starts[bad[0]] + 1} {lengths[bad[0]]}"
        raise ValueError(f"object {number}: run {run!r} lies outside an image of {pixels} pixels")
    order = np.argsort(starts, kind="stable")
    return starts[order], lengths[order]
