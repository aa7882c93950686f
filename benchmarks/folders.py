"""A folder of 200 images: one batch beside one call each.

``python benchmarks/folders.py --data ../shared/data/stage1_train.zip``

The images are the first 200 of the training set, as PNG files. *One call each* is what a person's script
does: read, ``segment(image)``, write the labels; *one network* is the same with the model loaded once. All
write the same files.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from functools import partial
from pathlib import Path

import torch

import measure
from napari_deepretina import load_model, segment
from napari_deepretina.data.files import read_image
from napari_deepretina.data.open import open_dataset
from napari_deepretina.export.tiff import write_image, write_labels
from napari_deepretina.inference.batch import segment_files
from napari_deepretina.inference.results import Places
from napari_deepretina.inference.settings import make_settings
from napari_deepretina.inference.sources import find_sources
from napari_deepretina.inference.steps import drain


def batch(folder: Path, out: Path) -> None:
    """All of them together."""
    shutil.rmtree(out, ignore_errors=True)
    drain(segment_files(find_sources([str(folder)]), Places(out), make_settings(device="cpu")))


def calls(folder: Path, out: Path, *, one_network: bool) -> None:
    """One after the other."""
    shutil.rmtree(out, ignore_errors=True)
    model = load_model("nuclei", "cpu") if one_network else None
    for path in sorted(folder.iterdir()):
        labels, _ = segment(read_image(path), model=model, **({} if one_network else {"device": "cpu"}))
        write_labels(labels, out / f"{path.stem}.tif")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--runs", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    dataset, _ = open_dataset(arguments.data)
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "in", Path(temporary) / "out"
        folder.mkdir()
        for k in range(arguments.count):
            write_image(dataset[k].image, folder / f"{k:04}.png")
        contestants = {
            "one batch": partial(batch, folder, out),
            "one call each": partial(calls, folder, out, one_network=False),
            "one call each, one network": partial(calls, folder, out, one_network=True),
        }
        seconds = measure.side_by_side(contestants, runs=arguments.runs, warmup=0)
    rows = [[n, f"{s:.1f}", f"{s / seconds['one batch']:.2f}"] for n, s in seconds.items()]
    print(measure.table(["way", "seconds", "times the batch's"], rows))


if __name__ == "__main__":
    main()
