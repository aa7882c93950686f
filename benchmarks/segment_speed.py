"""Seconds for a field of nuclei on the CPU: ours and torchvision's stock Mask R-CNN.

``python benchmarks/segment_speed.py [--runs 5] [--weights NAME…] [--side 1024] [--nuclei 500]``

torchvision's `maskrcnn_resnet50_fpn` runs as it comes: it scales the short side to 800, keeps 100 detections
at most and pastes each into a full frame. Its weights are random here (none come with the package), so its
score floor is set to 0 to make it draw masks at all; a second row lets it keep as many as there are nuclei.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn

import measure
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.evaluation import match
from napari_deepretina.inference.segment import Segmentation, segment
from napari_deepretina.model.weights import load_model


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--weights", nargs="+", default=["nuclei"])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--nuclei", type=int, default=500)
    arguments = parser.parse_args()
    side, count = arguments.side, arguments.nuclei
    torch.set_num_threads(2)
    image, truth = synthetic_nuclei((side, side), count, diameter=30, seed=5)
    tensor = torch.from_numpy(image / 255).float().expand(3, -1, -1)
    stock = {
        f"torchvision stock, {most} detections": maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, box_score_thresh=0.0, box_detections_per_img=most
        ).eval()
        for most in sorted({100, count})
    }
    models = {f"ours, {name}": load_model(name) for name in arguments.weights}
    results: dict[str, list[Segmentation]] = {name: [] for name in models}

    def ours(name: str) -> None:
        results[name].append(segment(image, model=models[name]))

    @torch.inference_mode()
    def theirs(name: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stock[name]([tensor])

    contestants = {n: (lambda n=n: ours(n)) for n in models} | {n: (lambda n=n: theirs(n)) for n in stock}
    seconds = measure.side_by_side(contestants, runs=arguments.runs)
    reference = seconds[next(iter(stock))]
    rows = []
    for name, value in seconds.items():
        share = found = "–"
        if name in results:
            last = results[name][-1]
            after = np.median([r.seconds["postprocess"] for r in results[name][1:]])
            share = f"{after / value:.1%}"
            found = f"{match(truth, last.labels).counts(0.5)[0]} of {truth.max()}"
        rows.append([name, f"{value:.3f}", f"{value / reference:.3f}", share, found])
    threads = torch.get_num_threads()
    print(f"{side}×{side}, {truth.max()} nuclei, CPU, {threads} threads, median of {arguments.runs}")
    print(measure.table(["network", "seconds", "ratio", "post-processing", "nuclei found (IoU > 0.5)"], rows))


if __name__ == "__main__":
    main()
