"""Seconds and peak memory of large images in tiles.

``python benchmarks/tiles.py``

Memory is what a fresh process takes on top of the image and the weights, the labels included, and without
them. The largest image is segmented by a narrow network of random weights, for its memory alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import measure
from napari_deepretina import load_model, segment
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.network import build
from napari_deepretina.model.weights import LoadedModel, WeightsInfo


def field(side: int) -> np.ndarray:
    """(side, side) uint8 with about 500 nuclei in each square of 1024 pixels."""
    piece, _ = synthetic_nuclei((1024, 1024), 500, diameter=26, seed=1)
    count = -(-side // 1024)
    return np.tile(piece, (count, count))[:side, :side].copy()


def narrow() -> LoadedModel:
    """A network that costs next to nothing."""
    architecture = Architecture(
        backbone="matterport_resnet50", body_widths=(4, *(4, 8) * 4), fpn_channels=8, rpn_channels=8,
        box_units=8, mask_channels=8,
    )  # fmt: skip
    network = build(architecture, seed=0).eval()
    network.proposals = network.detections = 200
    return LoadedModel(
        network, WeightsInfo(name="narrow", architecture=architecture), Path(), "", torch.device("cpu")
    )


def work(side: int, network: str) -> Callable[[], object]:
    """Segment one field."""
    torch.set_num_threads(2)
    model = narrow() if network == "narrow" else load_model("nuclei", "cpu")
    image = field(side)
    return lambda: segment(image, model=model, score=0.3 if network == "narrow" else 0.9)


def main(sides: list[int]) -> None:
    """Print the table."""
    rows: list[list[object]] = []
    for side in sides:
        network = "narrow" if side > 10_000 else "nuclei"
        peak = measure.peak_megabytes(work, side, network)
        labels = side * side * 4 / 2**20
        row: list[object] = [f"{side}²", network, f"{peak:.0f}", f"{peak - labels:.0f}"]
        if network == "nuclei":
            job = work(side, network)
            begun = time.perf_counter()
            found: Any = job()
            seconds = time.perf_counter() - begun
            row += [f"{seconds:.1f}", f"{seconds / side**2 * 1e6:.2f}", len(found.instances)]
        rows.append(row + ["–"] * (7 - len(row)))
    head = ["image", "network", "peak MB", "without the labels", "seconds", "seconds / megapixel", "nuclei"]
    print(measure.table(head, rows), flush=True)


if __name__ == "__main__":
    main([int(s) for s in sys.argv[1:]] or [2048, 8192, 20_000])
