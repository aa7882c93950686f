"""Merging fifteen views of 500 nuclei on 1024×1024: ours, and the original's method on full frames.

``python benchmarks/merge_views.py [--nuclei 500] [--side 1024] [--views 15]``

The full-frame method holds one (H, W) mask an object, as the original did; it is restated here in its own
words with the smallest dtypes that do (the original's own temporaries are 64-bit and would not fit in
memory), and is given each view only when its turn comes. Both answer the same masks, which is checked.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import measure
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.instances import Instances, RawInstances
from napari_deepretina.postprocess import PostprocessSettings, postprocess
from napari_deepretina.postprocess.original import merge_views


def shaken_views(nuclei: int, side: int, views: int) -> list[Instances]:
    """The same nuclei moved by a pixel or two; each view misses some. Masks of a view may overlap."""
    _, labels = synthetic_nuclei((side, side), nuclei, diameter=30, seed=5)
    whole = Instances.from_labels(labels)
    rng = np.random.default_rng(0)
    result = []
    for _ in range(views):
        seen = whole[rng.random(len(whole)) < 0.95]
        moved = seen.boxes + np.tile(rng.integers(-1, 2, (len(seen), 2)), 2)
        low, high = np.clip(moved[:, :2], 0, side), np.clip(moved[:, 2:], 0, side)
        cut = [
            mask[y0 - b[1] : y1 - b[1], x0 - b[0] : x1 - b[0]]
            for mask, b, (x0, y0), (x1, y1) in zip(seen.masks, moved, low, high, strict=True)
        ]
        result.append(seen.with_masks(np.concatenate([low, high], axis=1), cut))
    return result


def frames(instances: Instances) -> NDArray[np.bool_]:
    """(N, H, W) bool."""
    full = np.zeros((len(instances), *instances.shape), bool)
    for i, (window, mask) in enumerate(instances):
        full[(i, *window)] = mask
    return full


def single_owner(masks: NDArray[np.bool_], threshold: float = 0.7) -> NDArray[np.bool_]:
    """Each pixel to one mask, by the original's priority of areas."""
    areas = masks.sum(axis=(1, 2))
    priority = (np.argsort(areas, kind="stable")[::-1] + 1).astype(np.uint16)
    top = (masks * priority[:, None, None]).max(axis=0)
    single = masks & (top == priority[:, None, None])
    lost = 1 - single.sum(axis=(1, 2)) / np.maximum(areas, 1)
    single[lost > threshold] = False
    return single


def label_image(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(H, W) from disjoint frames."""
    numbers = np.arange(1, len(masks) + 1, dtype=np.uint16)
    return np.asarray((masks * numbers[:, None, None]).sum(axis=0))


def full_frame_merge(
    views: list[Instances], votes_above: int = 4, iou_at_least: float = 0.6
) -> NDArray[np.bool_]:
    """The sequential merge with one frame an object."""
    counts = frames(views[0]).astype(np.uint8)
    for view in views[1:]:
        ones = single_owner(counts > 0)
        alive = ones.any(axis=(1, 2))
        counts, ones = counts[alive], ones[alive]
        twos = single_owner(frames(view))
        first, second = (label_image(masks) for masks in (ones, twos))
        n, m = len(ones) + 1, len(twos) + 1
        shared = np.histogram2d(first.ravel(), second.ravel(), bins=(n, m))[0]
        union = shared.sum(axis=1)[:, None] + shared.sum(axis=0)[None] - shared
        iou = shared / union
        best, value = iou.argmax(axis=1)[1:] - 1, iou.max(axis=1)[1:]
        best[value < iou_at_least] = -1
        for i in np.flatnonzero(best >= 0):
            counts[i] += twos[best[i]]
        counts = np.concatenate([counts, twos[np.setdiff1d(np.arange(len(twos)), best)]])
    kept = counts > votes_above
    return kept[kept.any(axis=(1, 2))]


def as_raw(views: list[Instances]) -> RawInstances:
    """The same as raw detections, for the corrected method."""
    parts = []
    for number, view in enumerate(views):
        boxes = view.tight_boxes().astype(np.float32)
        n = len(view)
        masks = np.zeros((n, 28, 28), np.uint8)
        for i, mask in enumerate(view.masks):
            rows = ((np.arange(28) + 0.5) / 28 * mask.shape[0]).astype(int)
            columns = ((np.arange(28) + 0.5) / 28 * mask.shape[1]).astype(int)
            masks[i] = mask[np.ix_(rows, columns)] * np.uint8(255)
        parts.append(
            RawInstances(
                boxes, np.linspace(0.99, 0.9, n, dtype=np.float32), masks, np.ones(n, np.int32),
                np.full(n, number, np.int32), np.zeros(n, np.int32), view.shape, view_count=len(views),
            )
        )  # fmt: skip
    return RawInstances.concatenate(parts)


def ours(nuclei: int, side: int, views: int) -> Callable[[], object]:
    """The original's merge, in boxes."""
    given = shaken_views(nuclei, side, views)
    return lambda: merge_views(given)


def corrected(nuclei: int, side: int, views: int) -> Callable[[], object]:
    """The corrected vote, from raw detections to final instances."""
    raw = as_raw(shaken_views(nuclei, side, views))
    return lambda: postprocess(raw, PostprocessSettings(votes=5))


def full_frame(nuclei: int, side: int, views: int) -> Callable[[], object]:
    """The original's merge, on full frames."""
    given = shaken_views(nuclei, side, views)
    return lambda: full_frame_merge(given)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nuclei", type=int, default=500)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--views", type=int, default=15)
    size = vars(parser.parse_args()).values()
    contestants = {"ours, original": ours, "ours, corrected": corrected, "full frames": full_frame}
    peaks = {name: measure.peak_megabytes(work, *size) for name, work in contestants.items()}
    seconds = {}
    for name, work in contestants.items():
        slow = work is full_frame
        seconds |= measure.side_by_side({name: work(*size)}, runs=1 if slow else 5, warmup=0 if slow else 1)
    merged, expected = frames(ours(*size)()), full_frame(*size)()  # type: ignore[arg-type]
    same = merged.shape == expected.shape and np.array_equal(merged, expected)
    print("{} nuclei, {}² pixels, {} views; same masks: {}".format(*size, same))
    rows = [
        [name, f"{seconds[name]:.2f}", f"{seconds['full frames'] / seconds[name]:.0f}", f"{peaks[name]:.0f}",
         f"{peaks[name] / peaks['full frames']:.4f}"]
        for name in contestants
    ]  # fmt: skip
    print(measure.table(["method", "seconds", "times as fast", "peak MB", "share of memory"], rows))


if __name__ == "__main__":
    main()
