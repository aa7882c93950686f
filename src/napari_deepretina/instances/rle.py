"""Run-length encoding as the 2018 Data Science Bowl defined it.

Pixels are numbered from 1 down the columns; an object is "start length start length …".
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.instances.final import Instances

MOST_SPANNED = 1_000_000_000
"""Pixels of all boxes around the objects of an image together: nuclei of the largest image need less."""


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
    numbers, values = [], []
    for number, string in enumerate(strings, start=1):
        if string.strip():
            numbers.append(number)
            values.append(_integers(string, number))
    flat = np.fromiter(itertools.chain.from_iterable(values), np.int64)
    owner = np.repeat(np.arange(len(values)), [len(v) // 2 for v in values])
    starts, lengths = flat[::2] - 1, flat[1::2]
    pixels = shape[0] * shape[1]
    bad = (starts < 0) | (lengths < 1) | (starts >= pixels) | (lengths > pixels - starts)
    if bad.any():
        k = int(np.argmax(bad))
        run = f"{starts[k] + 1} {lengths[k]}"
        raise ValueError(f"object {numbers[owner[k]]}: run {run!r} lies outside an image of {pixels} pixels")
    order = np.lexsort((starts, owner))
    starts, lengths = starts[order], lengths[order]
    twice = (starts[1:] < starts[:-1] + lengths[:-1]) & (owner[1:] == owner[:-1])
    if twice.any():
        k = int(np.argmax(twice))
        first, second = (f"{starts[n] + 1} {lengths[n]}" for n in (k, k + 1))
        raise ValueError(f"object {numbers[owner[k]]}: runs {first!r} and {second!r} overlap")
    boxes, masks = from_runs(starts, lengths, owner, shape[0])
    return Instances.drawn(boxes, masks, shape)


def _integers(string: str, number: int) -> list[int]:
    """An even number of integers that fit into 64 bits."""
    try:
        values = [int(word) for word in string.split()]
    except ValueError:
        raise ValueError(f"object {number}: {string[:40]!r} is not a list of integers") from None
    if len(values) % 2:
        raise ValueError(f"object {number}: {len(values)} numbers; runs come in pairs")
    if max(values) >= 2**62 or min(values) < -(2**62):
        raise ValueError(f"object {number}: {string[:40]!r} is not a list of integers of a possible size")
    return values


def from_runs(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], owner: NDArray[np.int64], height: int
) -> tuple[list[tuple[int, int, int, int]], list[NDArray[np.bool_]]]:
    """Objects from their runs, all at once.

    Parameters
    ----------
    starts : (R,) numbered from 0 down the columns, rising within each object.
    lengths : (R,) positive; runs of an object do not overlap.
    owner : (R,) 0…N - 1, rising; every object has a run.
    height : of the image.

    Returns
    -------
    boxes : N times (x0, y0, x1, y1), x1 and y1 exclusive.
    masks : N bool arrays, each in its box.

    Raises
    ------
    ValueError
        If the boxes together hold more than `MOST_SPANNED` pixels.
    """
    if not len(starts):
        return [], []
    ends = starts + lengths
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    last = np.append(first[1:], len(owner)) - 1
    x0, x1 = starts[first] // height, (ends[last] - 1) // height + 1
    # A run that goes on into the next column spans all rows.
    wraps = starts // height != (ends - 1) // height
    y0 = np.minimum.reduceat(np.where(wraps, 0, starts % height), first)
    y1 = np.maximum.reduceat(np.where(wraps, height, (ends - 1) % height + 1), first)
    tall, areas = y1 - y0, (y1 - y0) * (x1 - x0)
    if int(areas.sum()) > MOST_SPANNED:
        raise ValueError(
            f"object {int(areas.argmax()) + 1}: the boxes around such far-apart pixels hold "
            f"{int(areas.sum()):.3g} pixels in all, more than {MOST_SPANNED:.3g}"
        )
    offsets = np.cumsum(areas) - areas
    # Each object's box stands in one line, column after column; there, runs are contiguous again.
    shift = (offsets - x0 * tall - y0)[owner]
    begin = (starts // height) * tall[owner] + starts % height + shift
    edges = np.zeros(int(areas.sum()) + 1, np.int8)
    np.add.at(edges, begin, 1)
    np.subtract.at(edges, begin + lengths, 1)
    line = np.cumsum(edges[:-1], dtype=np.int8).view(bool)
    boxes = list(zip(x0.tolist(), y0.tolist(), x1.tolist(), y1.tolist(), strict=True))
    masks = [
        line[offset : offset + area].reshape(-1, rows).T
        for offset, area, rows in zip(offsets.tolist(), areas.tolist(), tall.tolist(), strict=True)
    ]
    return boxes, masks


def coco_counts(mask: NDArray[np.bool_], corner: tuple[int, int], shape: tuple[int, ...]) -> list[int]:
    """Run lengths of an object as COCO counts them: background and object in turn, down the columns.

    Parameters
    ----------
    mask : (h, w), which lies at `corner` (y, x) in an image of `shape` (height, width).
    """
    starts, lengths = runs_of(mask, corner, shape[0])
    ends = np.concatenate([[0], (starts - 1 + lengths)])
    gaps = np.concatenate([starts - 1, [shape[0] * shape[1]]]) - ends
    counts = np.empty(2 * len(lengths) + 1, np.int64)
    counts[0::2], counts[1::2] = gaps, lengths
    return [int(c) for c in (counts if counts[-1] else counts[:-1])]
