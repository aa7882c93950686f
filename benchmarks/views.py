"""What test-time views cost beside one look, and whose masks could be spared: those that no vote keeps.

``python benchmarks/views.py --threads 2``
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import measure
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.inference.segment import Segmentation, segment
from napari_deepretina.model.weights import load_model

PRESETS = {"none": 1, "flips": 4, "flips-rotations": 8, "deep-retina": 15}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="nuclei-small")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--nuclei", type=int, default=120)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.weights)
    image, _ = synthetic_nuclei((arguments.side, arguments.side), arguments.nuclei, diameter=30, seed=5)
    found: dict[str, Segmentation] = {}

    def look(tta: str) -> None:
        found[tta] = segment(image, model=model, tta=tta)

    seconds = measure.side_by_side({t: (lambda t=t: look(t)) for t in PRESETS}, runs=arguments.runs)
    rows = []
    for name, spent in seconds.items():
        raw, kept = found[name].prediction.raw, found[name].instances.boxes
        middles = (raw.boxes[:, :2] + raw.boxes[:, 2:]) / 2
        inside = (middles[:, None] >= kept[None, :, :2]) & (middles[:, None] < kept[None, :, 2:])
        lost = 1 - inside.all(-1).any(-1).mean()
        ratio = spent / seconds["none"]
        rows.append([name, PRESETS[name], f"{spent:.2f}", f"{ratio:.1f}", f"{np.round(100 * lost, 1)} %"])
    size = f"{arguments.side}², {arguments.nuclei} nuclei, {arguments.weights}, {model.precision}"
    print(f"{size}, CPU, {arguments.threads} threads, median of {arguments.runs}")
    head = ["views", "looks", "seconds", "times one look", "raw detections away from every nucleus kept"]
    print(measure.table(head, rows))


if __name__ == "__main__":
    main()
