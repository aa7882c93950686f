"""Which score threshold and smallest area serve all sets together.

``python training/advice.py WEIGHTS --data SET.zip … [--part train --most 40]``

Each image is looked at once; then every pair of settings is tried on its raw detections. The table gives the
score of each set, their mean and the worst; the best mean stands last.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from by_type import row
from sets import part_of

from napari_deepretina.evaluation import match
from napari_deepretina.evaluation.scores import score_image
from napari_deepretina.inference.segment import segment_steps
from napari_deepretina.inference.settings import make_settings
from napari_deepretina.inference.steps import drain
from napari_deepretina.model.weights import load_model
from napari_deepretina.postprocess import PostprocessSettings, postprocess

SCORES = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
AREAS = (20, 40)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights")
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--part", default="val", choices=["val", "train"])
    parser.add_argument("--most", type=int, help="images of each set at most; by default all")
    arguments = parser.parse_args()
    model = load_model(arguments.weights, precision="float32")
    tried = [PostprocessSettings(score=s, min_area=a) for a in AREAS for s in SCORES]
    scores = np.zeros((len(tried), len(arguments.data)))
    for k, path in enumerate(arguments.data):
        data = part_of(path, arguments.part, most=arguments.most)
        found = np.zeros((len(tried), len(data)))
        for i in range(len(data)):
            sample = data[i]
            raw = drain(segment_steps(sample.image, model, make_settings(), tunable=True)).prediction.raw
            for j, settings in enumerate(tried):
                labels = postprocess(raw, settings).to_labels()
                found[j, i] = score_image(match(sample.labels, labels), sample.name).dsb_score
        scores[:, k] = found.mean(axis=1)
    row("score", "area", *(Path(p).stem for p in arguments.data), "mean", "worst")
    row(*["---"] * (len(arguments.data) + 4))
    order = [*range(len(tried)), int(scores.mean(axis=1).argmax())]
    for j in order:
        row(
            tried[j].score,
            tried[j].min_area,
            *scores[j].tolist(),
            float(scores[j].mean()),
            float(scores[j].min()),
        )


if __name__ == "__main__":
    main()
