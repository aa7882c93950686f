"""The shipped weights and a classical Otsu + watershed pipeline on the same validation images, in one run.

``python benchmarks/classical.py --data ../shared/data/stage1_train.zip [--weights nuclei]``
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2gray
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.morphology import remove_small_holes, remove_small_objects
from skimage.segmentation import watershed

import measure
from napari_deepretina.evaluation import Report, match
from napari_deepretina.evaluation.scores import score_image
from napari_deepretina.inference.segment import segment
from napari_deepretina.model.weights import load_model
from napari_deepretina.training.run import split_data


def otsu_watershed(image: NDArray[np.generic]) -> NDArray[np.int32]:
    """Threshold, then split at the ridges of the distance from the background.

    Nuclei may be brighter or darker than the rest: the smaller side of the threshold is taken for them,
    which is right for every image type of the competition and kinder than one fixed choice.
    """
    grey = rgb2gray(image[..., :3]) if image.ndim == 3 else image.astype(float)
    if grey.max() == grey.min():
        return np.zeros(grey.shape, np.int32)
    smooth = gaussian(grey, 1)
    mask = smooth > threshold_otsu(smooth)
    mask = ~mask if mask.mean() > 0.5 else mask
    mask = remove_small_holes(remove_small_objects(mask, max_size=19), max_size=50)
    distance = gaussian(ndimage.distance_transform_edt(mask), 1)
    peaks = peak_local_max(distance, min_distance=5, labels=ndimage.label(mask)[0], exclude_border=False)
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-distance, markers, mask=mask).astype(np.int32)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", default="nuclei")
    arguments = parser.parse_args()
    _, val = split_data([arguments.data])
    model = load_model(arguments.weights, precision="float32")
    methods = {
        f"ours, {arguments.weights}": lambda image: segment(image, model=model).labels,
        "Otsu + watershed": otsu_watershed,
    }
    rows = []
    for name, method in methods.items():
        scores, seconds = [], 0.0
        for sample in (val[i] for i in range(len(val))):
            begun = time.perf_counter()
            labels = method(sample.image)
            seconds += time.perf_counter() - begun
            scores.append(score_image(match(sample.labels, labels), sample.name))
        report = Report(tuple(scores))
        rows.append(
            [name, f"{report.dsb_score:.4f}", f"{report.f1:.4f}",
             *(f"{report.ap[t]:.3f}" for t in ("0.50", "0.75", "0.90")), f"{seconds / len(val):.3f}"]
        )  # fmt: skip
    print(f"{len(val)} validation images, CPU")
    head = ["method", "dsb_score", "F1", "AP .50", "AP .75", "AP .90", "seconds an image"]
    print(measure.table(head, rows))


if __name__ == "__main__":
    main()
