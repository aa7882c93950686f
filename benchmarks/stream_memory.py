"""Memory of a training stream over many images: bounded by `cache_gb`, and as it would be if all were kept.

``python benchmarks/stream_memory.py [--images 10000] [--kept 1000]``

Images are 256×256 with 12 nuclei, made on the fly. One crop is cut from each. The figures are the peak of a
fresh process, on top of what it takes before the first image, and that by itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

import measure
from napari_deepretina.data.augmentation import Augmentation
from napari_deepretina.data.crops import CropStream, Decoded
from napari_deepretina.data.sample import Sample
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.model.architecture import Architecture

SIDE = 256


class Many:
    """The same field, shifted for each image."""

    def __init__(self, length: int) -> None:
        self._image, self._labels = synthetic_nuclei((SIDE, SIDE), 12, diameter=28, seed=1)
        self.names = [str(k) for k in range(length)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        image, labels = (np.roll(a, (index % 97, index % 89), (0, 1)) for a in (self._image, self._labels))
        return Sample(self.names[index], image, labels)


def round_of_crops(length: int, cache_gb: float) -> Callable[[], Any]:
    """One crop of each image."""
    images = Decoded(Many(length), Architecture(), cache_gb=cache_gb)
    stream = CropStream(images, size=256, augmentation=Augmentation(), seed=0, length=length)

    def work() -> None:
        before = psutil.Process().memory_info().rss
        for number in range(length):
            stream.crop(number)
        print(f"| {length} | {cache_gb:g} | {before / 2**20:.0f}", end=" ", flush=True)

    return work


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--kept", type=int, default=1_000, help="images of the run that keeps all")
    arguments = parser.parse_args()
    print(
        "| images | cache_gb | MB before | MB more at the peak | seconds |\n| --- | --- | --- | --- | --- |"
    )
    for length, cache_gb in ((arguments.images, 1.0), (arguments.kept, 1000.0)):
        begun = time.perf_counter()
        peak = measure.peak_megabytes(round_of_crops, length, cache_gb)
        print(f"| {peak:.0f} | {time.perf_counter() - begun:.0f} |", flush=True)


if __name__ == "__main__":
    main()
