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
        If a string is not pairs of positive integers, runs past the image, or holds a pixel twice; the
        message gives the object's position and the offending value.
    """
    boxes, masks = [], []
    for number, string in enumerate(strings, start=1):
        if not string.strip():
            continue
        try:
            starts, lengths = _parse(string, shape[0] * shape[1])
        except ValueError as error:
            raise ValueError(f"object {number}: {error}") from None
        box, mask = from_runs(starts, lengths, shape[0])
        boxes.append(box)
        masks.append(mask)
    return Instances.drawn(boxes, masks, shape)


def from_runs(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], height: int
) -> tuple[tuple[int, int, int, int], NDArray[np.bool_]]:
    """One object from its runs.

    Parameters
    ----------
    starts : (R,) rising, numbered from 0 down the columns, R ≥ 1.
    lengths : (R,) positive; runs do not overlap.
    height : of the image.

    Returns
    -------
    box : (x0, y0, x1, y1), x1 and y1 exclusive.
    mask : bool, in that box.
    """
    x0, x1 = int(starts[0]) // height, int(starts[-1] + lengths[-1] - 1) // height + 1
    frame = np.zeros((x1 - x0) * height, bool)
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    frame[np.repeat(starts - x0 * height, lengths) + within] = True
    columns = frame.reshape(x1 - x0, height)
    rows = np.flatnonzero(columns.any(axis=0))
    y0, y1 = int(rows[0]), int(rows[-1]) + 1
    return (x0, y0, x1, y1), np.ascontiguousarray(columns[:, y0:y1].T)


def _parse(string: str, pixels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted zero-based starts and the lengths of one object's runs, checked."""
    try:
        values = np.array(string.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError(f"{string[:40]!r} is not a list of integers") from None
    if len(values) % 2:
        raise ValueError(f"{len(values)} numbers; runs come in pairs")
    starts, lengths = values[::2] - 1, values[1::2]
    bad = np.flatnonzero((starts < 0) | (lengths < 1) | (starts >= pixels) | (lengths > pixels - starts))
    if len(bad):
        run = f"{values[::2][bad[0]]} {lengths[bad[0]]}"
        raise ValueError(f"run {run!r} lies outside an image of {pixels} pixels")
    order = np.argsort(starts, kind="stable")
    starts, lengths = starts[order], lengths[order]
    twice = np.flatnonzero(starts[1:] < starts[:-1] + lengths[:-1])
    if len(twice):
        first, second = (f"{starts[k] + 1} {lengths[k]}" for k in (twice[0], twice[0] + 1))
        raise ValueError(f"runs {first!r} and {second!r} overlap")
    return starts, lengths
