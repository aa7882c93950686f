"""One real image of each stain with the nuclei that the weights find, for the documentation.

``python training/gallery.py --data SET.zip … --out docs/weights-gallery.png [--weights nuclei]``

The image of each set's validation part is the one whose score is the set's median: neither the best nor the
worst. scikit-image's picture of immunohistochemistry, which has no truth, stands last.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw
from sets import part_of

from napari_deepretina.evaluation import match
from napari_deepretina.evaluation.scores import score_image
from napari_deepretina.export.tiff import overlay
from napari_deepretina.inference.segment import segment
from napari_deepretina.model.weights import load_model

SIDE, HEAD, COLUMNS = 360, 22, 4


def tile(picture: np.ndarray, title: str) -> np.ndarray:
    """A square piece from the middle, with a line of text above it."""
    height, width = picture.shape[:2]
    side = min(height, width, 560)
    top, left = (height - side) // 2, (width - side) // 2
    piece = Image.fromarray(picture[top : top + side, left : left + side]).resize((SIDE, SIDE))
    framed = Image.new("RGB", (SIDE + 8, SIDE + HEAD + 8), "white")
    framed.paste(piece, (4, HEAD))
    ImageDraw.Draw(framed).text((6, 5), title, fill="black")
    return np.asarray(framed)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", default="nuclei")
    arguments = parser.parse_args()
    model = load_model(arguments.weights)
    tiles = []
    for path in arguments.data:
        data = part_of(path, "val")
        rows = []
        for sample in (data[i] for i in range(len(data))):
            labels = segment(sample.image, model=model).labels
            score = score_image(match(sample.labels, labels), sample.name).dsb_score
            rows.append((score, sample.name, overlay(sample.image, labels)))
        score, _, picture = sorted(rows, key=lambda r: r[:2])[len(rows) // 2]
        tiles.append(tile(picture, f"{Path(path).stem}: score {score:.2f}"))
    brown = skimage.data.immunohistochemistry()
    found = segment(brown, model=model)
    tiles.append(tile(overlay(brown, found.labels), f"immunohistochemistry: {found.count} nuclei"))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    bands = [np.concatenate(tiles[k : k + COLUMNS], axis=1) for k in range(0, len(tiles), COLUMNS)]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(bands, axis=0)).save(arguments.out)


if __name__ == "__main__":
    main()
