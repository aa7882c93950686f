"""Are scores probabilities? How many detections of a score are true nuclei, on the validation images.

``python training/calibration.py --data ../shared/data/stage1_train_pairs.zip … [--weights nuclei]``

True is what overlaps a true nucleus with an IoU above 0.5. The network's own scores stand beside those in
context. A specialist that goes with the weights is left out: name it to see its own scores. The last line is
the expected calibration error: the mean distance of score and share.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace

import numpy as np

from napari_deepretina.data import Dataset
from napari_deepretina.evaluation import match
from napari_deepretina.inference.segment import segment
from napari_deepretina.model.weights import LoadedModel, load_model
from napari_deepretina.training.run import split_data

EDGES = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])


def seen(model: LoadedModel, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all nuclei found, and whether they are true."""
    scores, true = [], []
    for sample in (data[i] for i in range(len(data))):
        found = segment(sample.image, model=model, score=float(EDGES[0]))
        hits = match(sample.labels, found.labels).hits(0.5)[:, 1]
        scores.append(found.instances.scores)
        true.append(np.isin(np.arange(1, found.count + 1), hits))
    return np.concatenate(scores), np.concatenate(true)


def column(scores: np.ndarray, true: np.ndarray) -> list[str]:
    """A cell for each bin, and the error."""
    places = np.clip(np.digitize(scores, EDGES) - 1, 0, len(EDGES) - 2)
    cells, apart = [], 0.0
    for place in range(len(EDGES) - 1):
        here = places == place
        cells.append(f"{true[here].mean():.2f} ({here.sum()})" if here.any() else "–")
        apart += abs(float(true[here].sum() - scores[here].sum()))
    return [*cells, f"{apart / len(scores):.3f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--weights", default="nuclei")
    arguments = parser.parse_args()
    _, val = split_data(arguments.data)
    model = replace(load_model(arguments.weights, precision="float32"), beside=None)
    own = replace(model, info=model.info.model_copy(update={"rescoring": None}))
    columns = {"the network's own": column(*seen(own, val))}
    if model.info.rescoring:
        columns["in context"] = column(*seen(model, val))
    bins = [f"{a:.1f} … {b:.1f}" for a, b in itertools.pairwise(EDGES)]
    print("| score | " + " | ".join(f"true, {name} (of how many)" for name in columns) + " |")
    print("|" + " --- |" * (1 + len(columns)))
    for place, name in enumerate([*bins, "error"]):
        print("| " + " | ".join([name, *(c[place] for c in columns.values())]) + " |")


if __name__ == "__main__":
    main()
