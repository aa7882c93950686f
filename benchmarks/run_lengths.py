"""Run-length encoding and decoding of 500 nuclei on 1024×1024: ours, a loop over pixels, pycocotools.

``python benchmarks/run_lengths.py``

Two loops are restated: *loop*, which competition entries used, goes through an object's own pixels one by
one; *walk* goes through all pixels of the frame. pycocotools gets the full-frame masks in the memory order it
likes best.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

import measure
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.instances import Instances, rle

SIDE, NUCLEI, LOOPED, WALKED = 1024, 500, 20, 2


def encoded_by_loop(mask: NDArray[np.bool_]) -> str:
    """One object's runs, found pixel after pixel down the columns."""
    runs: list[int] = []
    last = -2
    for position in np.flatnonzero(mask.T.ravel()).tolist():
        if position > last + 1:
            runs += [position + 1, 0]
        runs[-1] += 1
        last = position
    return " ".join(map(str, runs))


def decoded_by_loop(string: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """One object's mask, filled pixel after pixel."""
    flat = np.zeros(shape[0] * shape[1], bool)
    numbers = [int(n) for n in string.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for position in range(start - 1, start - 1 + length):
            flat[position] = True
    return flat.reshape(shape[1], shape[0]).T


def encoded_by_walk(mask: NDArray[np.bool_]) -> str:
    """One object's runs, found by looking at every pixel of the frame."""
    runs: list[int] = []
    inside = False
    for position, here in enumerate(mask.T.ravel().tolist(), start=1):
        if here and not inside:
            runs += [position, 1]
        elif here:
            runs[-1] += 1
        inside = here
    return " ".join(map(str, runs))


def decoded_by_walk(string: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """One object's mask, decided for every pixel of the frame."""
    numbers = [int(n) for n in string.split()]
    runs = iter(zip(numbers[::2], numbers[1::2], strict=True))
    start, length = next(runs, (0, 0))
    flat = []
    for position in range(1, shape[0] * shape[1] + 1):
        if position >= start + length:
            start, length = next(runs, (start, length))
        flat.append(start <= position < start + length)
    return np.array(flat).reshape(shape[1], shape[0]).T


def main() -> None:
    """Print the table."""
    _, labels = synthetic_nuclei((SIDE, SIDE), NUCLEI, diameter=30, seed=5)
    instances = Instances.from_labels(labels)
    strings = rle.encode(instances)
    frames = [labels == i for i in range(1, len(instances) + 1)]
    fortran = [np.asfortranarray(f).view(np.uint8) for f in frames]
    packed = [coco_mask.encode(f) for f in fortran]
    assert [encoded_by_loop(f) for f in frames[:LOOPED]] == strings[:LOOPED]
    assert [encoded_by_walk(f) for f in frames[:WALKED]] == strings[:WALKED]
    for string, frame in zip(strings[:WALKED], frames[:WALKED], strict=True):
        assert np.array_equal(decoded_by_walk(string, labels.shape), frame)
    seconds = measure.side_by_side(
        {
            "ours, encode": lambda: rle.encode(instances),
            "walk, encode": lambda: [encoded_by_walk(f) for f in frames[:WALKED]],
            "loop, encode": lambda: [encoded_by_loop(f) for f in frames[:LOOPED]],
            "pycocotools, encode": lambda: [coco_mask.encode(f) for f in fortran],
            "ours, decode": lambda: rle.decode(strings, labels.shape),
            "walk, decode": lambda: [decoded_by_walk(s, labels.shape) for s in strings[:WALKED]],
            "loop, decode": lambda: [decoded_by_loop(s, labels.shape) for s in strings[:LOOPED]],
            "pycocotools, decode": lambda: [coco_mask.decode(p) for p in packed],
        }
    )
    for name in seconds:
        done = {"loop": LOOPED, "walk": WALKED}.get(name[:4], len(instances))
        seconds[name] *= len(instances) / done
    rows = [
        [name, f"{1e3 * s:.1f}", f"{s / seconds['ours, ' + name.split(', ')[1]]:.1f}"]
        for name, s in seconds.items()
    ]
    print(f"{len(instances)} nuclei, {SIDE}² pixels (the loops ran on {LOOPED} and {WALKED} of them)")
    print(measure.table(["method", "ms for all", "times ours"], rows))


if __name__ == "__main__":
    main()
