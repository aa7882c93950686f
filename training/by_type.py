"""Validation scores by data set and image type, with confidence intervals, of one or several weights.

``python training/by_type.py --data ../shared/data/stage1_train_pairs.zip ../shared/data/open/*.zip``

Every image of the validation parts is segmented as a user's would be, with the weights' own advice. Intervals
are the middle 95 % of 10,000 bootstrap resamples of the images. The last row of each network is the mean over
the sets, each counting alike.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

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


def figures(chosen: list[ImageScore]) -> list[float]:
    """Score, F1, AP .50 and AP .75, means over the images."""
    return [
        float(np.mean([getter(s) for s in chosen]))
        for getter in (lambda s: s.dsb_score, lambda s: np.mean(s.f1), lambda s: s.ap[0], lambda s: s.ap[5])
    ]


def row(*cells: object) -> None:
    """Print a row of the table."""
    shown = (f"{c:.4f}" if isinstance(c, float) else str(c) for c in cells)
    print(f"| {' | '.join(shown)} |", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", nargs="+", default=["nuclei"])
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--intensity", default="auto", help="how values are read: auto, plain or LOW:HIGH")
    parser.add_argument("--score", type=float, help="score threshold, by default the weights' advice")
    parser.add_argument("--min-area", type=int, help="smallest area, by default the weights' advice")
    parser.add_argument("--specialist", default="auto", help="whether that for tissue looks: always or never")
    arguments = parser.parse_args()
    given = {"score": arguments.score, "min_area": arguments.min_area}
    options = {k: v for k, v in given.items() if v is not None} | {
        "intensity": arguments.intensity,
        "specialist": arguments.specialist,
    }
    row("weights", "set", "image type", "images", "score", "95 % interval", "F1", "AP .50", "AP .75", "s")
    row(*["---"] * 10)
    for name in arguments.weights:
        model = load_model(name, precision="float32")
        means = []
        for path in arguments.data:
            _, val = split_data([path])
            kinds, scores, begun = [], [], time.perf_counter()
            for sample in (val[i] for i in range(len(val))):
                found = segment(sample.image, model=model, **options)
                kinds.append(kind_of(sample))
                scores.append(score_image(match(sample.labels, found.labels), sample.name))
            seconds = (time.perf_counter() - begun) / len(scores)
            means.append(figures(scores))
            for kind in [ALL, *(sorted(set(kinds)) if len(set(kinds)) > 1 else [])]:
                chosen = [s for s, k in zip(scores, kinds, strict=True) if kind in (ALL, k)]
                low, high = interval(np.array([s.dsb_score for s in chosen]))
                score, *rest = figures(chosen)
                told = f"{low:.3f} … {high:.3f}"
                row(name, Path(path).stem, kind, len(chosen), score, told, *rest, f"{seconds:.2f}")
        row(name, "mean of sets", ALL, len(means), *(float(v) for v in np.mean(means, axis=0)[:1]), "",
            *(float(v) for v in np.mean(means, axis=0)[1:]), "")  # fmt: skip


if __name__ == "__main__":
    main()
