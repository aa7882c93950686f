"""Validation score by image type, with confidence intervals, of one or several weights.

``python training/by_type.py --data ../shared/data/stage1_train.zip [WEIGHTS …]``

Intervals are the middle 95 % of 10,000 bootstrap resamples of the images.
"""

from __future__ import annotations

import argparse

import numpy as np

from napari_deepretina.data.kinds import kind_of
from napari_deepretina.evaluation import match
from napari_deepretina.evaluation.scores import ImageScore, score_image
from napari_deepretina.inference.segment import segment
from napari_deepretina.model.weights import load_model
from napari_deepretina.training.run import split_data

ALL = "all"


def interval(values: np.ndarray) -> tuple[float, float]:
    """Of the mean."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (10_000, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    return low, high


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="*", default=["nuclei"])
    parser.add_argument("--data", required=True)
    arguments = parser.parse_args()
    _, val = split_data([arguments.data])
    samples = [val[i] for i in range(len(val))]
    kinds = [kind_of(sample) for sample in samples]
    print("| weights | image type | images | score | 95 % interval | F1 | AP .50 | AP .75 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.weights:
        model = load_model(name)
        scores: list[ImageScore] = [
            score_image(match(s.labels, segment(s.image, model=model).labels), s.name) for s in samples
        ]
        for kind in [ALL, *sorted(set(kinds))]:
            chosen = [s for s, k in zip(scores, kinds, strict=True) if kind in (ALL, k)]
            values = np.array([s.dsb_score for s in chosen])
            low, high = interval(values)
            f1, ap50, ap75 = (
                np.mean(v) for v in zip(*((np.mean(s.f1), s.ap[0], s.ap[5]) for s in chosen), strict=True)
            )
            print(
                f"| {name} | {kind} | {len(chosen)} | {values.mean():.4f} | {low:.3f} … {high:.3f} | "
                f"{f1:.3f} | {ap50:.3f} | {ap75:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
