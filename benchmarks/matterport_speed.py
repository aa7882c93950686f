"""Seconds of the rebuilt Matterport ResNet-101 for an image of 512×512, beside torchvision's stock network.

``python benchmarks/matterport_speed.py [WEIGHTS.safetensors]``

WEIGHTS come from ``napari-deepretina weights import``; without them they are random.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn

import measure
from napari_deepretina import segment
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.network import build
from napari_deepretina.model.weights import LoadedModel, load_model


def main(weights: str | None) -> None:
    """Print the table."""
    if weights:
        model = load_model(weights, "cpu")
    else:
        architecture = Architecture(backbone="matterport_resnet101", roi_canonical_size=224)
        info = WeightsInfo(name="random", architecture=architecture)
        network = build(architecture, seed=0).eval()
        model = LoadedModel(network, info, Path(), "", torch.device("cpu"))
    grey, _ = synthetic_nuclei((512, 512), 150, diameter=24, seed=3)
    image = np.repeat(grey[..., None], 3, axis=2)
    stock = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, min_size=512, max_size=512).eval()
    tensor = torch.from_numpy(image).permute(2, 0, 1) / 255

    @torch.inference_mode()
    def theirs() -> object:
        return stock([tensor])

    contestants: dict[str, Callable[[], object]] = {
        f"ours, matterport_resnet101, {model.info.name}": lambda: segment(image, model=model),
        "torchvision stock, maskrcnn_resnet50_fpn": theirs,
    }
    rows: list[list[object]] = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, seconds in measure.side_by_side(contestants).items():
            rows.append([threads, name, f"{seconds:.2f}"])
    print(f"512×512, CPU, {len(segment(image, model=model).instances)} objects found, median of 5")
    print(measure.table(["threads", "network", "seconds"], rows))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
