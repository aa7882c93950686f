"""Where weights fail: the worst validation images of each type, or of each of several sets, as one picture.

``python training/failures.py --data ../shared/data/stage1_train.zip --out PICTURE.png [--weights …]``

Each image is shown with the outlines of the truth (green, those without a partner at IoU 0.5 red) and of the
prediction (blue, those without a partner yellow).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from skimage.segmentation import find_boundaries

from napari_deepretina.data.kinds import kind_of
from napari_deepretina.data.normalise import normalise
from napari_deepretina.data.sample import Sample
from napari_deepretina.evaluation import match
from napari_deepretina.evaluation.scores import score_image
from napari_deepretina.inference.segment import segment
from napari_deepretina.model.weights import load_model
from napari_deepretina.training.run import split_data

matplotlib.use("Agg")
TRUE, MISSED, FOUND, EXTRA = (60, 200, 90), (240, 50, 50), (70, 140, 255), (250, 220, 40)


def drawn(
    image: np.ndarray, labels: np.ndarray, odd: np.ndarray, colours: tuple[tuple[int, ...], ...]
) -> np.ndarray:
    """(H, W, 3) uint8: outlines of labels, those in `odd` in the second colour."""
    picture = (np.clip(normalise(image), 0, 1) * 255).astype(np.uint8)
    edge = find_boundaries(labels, mode="inner")
    unusual = np.isin(labels, odd)
    picture[edge & ~unusual], picture[edge & unusual] = colours
    return picture


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", default="nuclei")
    parser.add_argument("--of-each", type=int, default=2)
    arguments = parser.parse_args()
    model = load_model(arguments.weights, precision="float32")
    rows: dict[str, list[tuple[float, Sample, np.ndarray]]] = {}
    for path in arguments.data:
        _, val = split_data([path])
        for sample in (val[i] for i in range(len(val))):
            labels = segment(sample.image, model=model).labels
            score = score_image(match(sample.labels, labels), sample.name).dsb_score
            group = kind_of(sample) if len(arguments.data) == 1 else Path(path).stem.split("_")[0]
            rows.setdefault(group, []).append((score, sample, labels))
    worst = [
        (kind, *row)
        for kind in sorted(rows)
        for row in sorted(rows[kind], key=lambda r: r[0])[: arguments.of_each]
    ]
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(worst), figsize=(3 * len(worst), 6.4), layout="constrained")
    for column, (kind, score, sample, labels) in enumerate(worst):
        matched = match(sample.labels, labels)
        for row, (shown, odd, colours) in enumerate(
            ((sample.labels, matched.missed(), (TRUE, MISSED)), (labels, matched.extra(), (FOUND, EXTRA)))
        ):
            axes[row, column].imshow(drawn(sample.image, shown, odd, colours))
            axes[row, column].set_axis_off()
        axes[0, column].set_title(f"{kind}\n{sample.name[:8]}: {score:.2f}", fontsize=9)
    figure.savefig(arguments.out, dpi=80)
    print(arguments.out, [(s.name[:8], round(v, 3)) for _, v, s, _ in worst])


if __name__ == "__main__":
    main()
