"""Random training crops: ours, and the same operations of torchvision's transforms, side by side.

``python benchmarks/augmentation.py``

Zoom, stretch, rotation, flips, a crop of 256², gamma or colour jitter, blur, noise, on an RGB image with its
label image. torchvision composes them of its parts: image and labels are transformed whole, then cropped.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

import measure
from napari_deepretina.data.augment import random_crop
from napari_deepretina.data.augmentation import DEEP_RETINA, Augmentation
from napari_deepretina.data.synthetic import synthetic_nuclei

SIZE, CROPS = 256, 20


def ours(shape: tuple[int, int], settings: Augmentation) -> Callable[[], object]:
    """Our crops."""
    image, labels = synthetic_nuclei(shape, shape[0] * shape[1] // 3000, diameter=24, kind="tissue")
    pixels = image.astype(np.float32) / 255

    def work() -> None:
        for k in range(CROPS):
            random_crop(pixels, labels, SIZE, 1.0, settings, np.random.default_rng(k))

    return work


def theirs(shape: tuple[int, int]) -> Callable[[], object]:
    """Crops by torchvision."""
    image, labels = synthetic_nuclei(shape, shape[0] * shape[1] // 3000, diameter=24, kind="tissue")
    pixels = tv_tensors.Image(torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1))
    mask = tv_tensors.Mask(torch.from_numpy(labels)[None])
    chain = v2.Compose(
        [
            v2.RandomAffine(15, scale=(0.6, 1.6), shear=None, interpolation=v2.InterpolationMode.BILINEAR),
            v2.RandomCrop(SIZE, pad_if_needed=True),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.ColorJitter(0.1, 0.2, 0.1),
            v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.0))], 0.25),
            v2.RandomApply([v2.GaussianNoise(0, 0.02)], 0.5),
        ]
    )

    def work() -> None:
        torch.manual_seed(0)
        for _ in range(CROPS):
            chain(pixels, mask)

    return work


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)  # as in a loader's process
    rows: list[list[object]] = []
    for shape in ((256, 256), (520, 696), (1040, 1388)):
        seconds = measure.side_by_side(
            {
                "ours, free": ours(shape, Augmentation()),
                "ours, deep-retina": ours(shape, Augmentation(**DEEP_RETINA)),
                "torchvision.transforms.v2": theirs(shape),
            }
        )
        for name, value in seconds.items():
            rows.append(
                [f"{shape[0]}×{shape[1]}", name, f"{value / CROPS * 1e3:.1f}",
                 f"{value / seconds['ours, free']:.2f}"]
            )  # fmt: skip
    print(f"crops of {SIZE}², one thread, median of 5")
    print(measure.table(["image", "by", "ms a crop", "ratio"], rows))


if __name__ == "__main__":
    main()
