"""Seconds and peak memory of large images in tiles.

``python benchmarks/tiles.py``

Memory is what a fresh process takes on top of the image and the weights, the labels included, and without
them. The largest image is segmented by the small network.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import measure
from napari_deepretina import load_model, segment
from napari_deepretina.data.synthetic import synthetic_nuclei


def field(side: int) -> np.ndarray:
    """(side, side) uint8 with about 500 nuclei in each square of 1024 pixels."""
    piece, _ = synthetic_nuclei((1024, 1024), 500, diameter=26, seed=1)
    count = -(-side // 1024)
    return np.tile(piece, (count, count))[:side, :side].copy()


def work(side: int, network: str) -> Callable[[], Any]:
    """Segment one field."""
    torch.set_num_threads(2)
    model = load_model(network)
    _ = model.detector
    image = field(side)
    return lambda: segment(image, model=model).labels


def main(sides: list[int]) -> None:
    """Print the table."""
    rows: list[list[object]] = []
    for side in sides:
        network = "nuclei-small" if side > 10_000 else "nuclei"
        peak = measure.peak_megabytes(work, side, network)
        labels = side * side * 4 / 2**20
        row: list[object] = [f"{side}²", network, f"{peak:.0f}", f"{peak - labels:.0f}"]
        job = work(side, network)
        begun = time.perf_counter()
        count = int(job().max())
        seconds = time.perf_counter() - begun
        rows.append([*row, f"{seconds:.1f}", f"{seconds / side**2 * 1e6:.2f}", count])
    head = ["image", "network", "peak MB", "without the labels", "seconds", "seconds / megapixel", "nuclei"]
    print(measure.table(head, rows), flush=True)


if __name__ == "__main__":
    main([int(s) for s in sys.argv[1:]] or [2048, 8192, 20_000])
