"""StarDist, trained from scratch on the images that our weights learnt from, on the same validation parts.

StarDist and TensorFlow are never dependencies of ours: they live in an environment of their own, and this
script runs in either::

    python -m venv peer && peer/bin/pip install stardist==0.9.2 "tensorflow-cpu==2.21.*"
    python benchmarks/peers.py prepare peers --data stage1_train_pairs.zip nuinsseg.zip tnbc.zip@5 …
    peer/bin/python benchmarks/peers.py train peers --steps 12000
    python benchmarks/peers.py compare peers --peer peer/bin/python --weights nuclei

``prepare`` writes the images and labels as arrays. ``train`` is one call of StarDist's own ``train``: three
channels, 32 rays, grid 2, 256² patches, batches of 4, flips, turns and changes of intensity as in its
examples, then its own ``optimize_thresholds`` on training images that it did not train on. ``compare`` runs
both networks one after the other, each in a process of its own, and scores both with our `evaluate`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HELD = 40
"""Every so manyth training image is StarDist's own validation, for its learning rate and its thresholds."""
FLOAT32 = (
    "Sigmoid,SigmoidGrad,Log,Log1p,Softmax,LogSoftmax,Sub,Mul,Div,RealDiv,Sqrt,Rsqrt,Square,"
    "SquaredDifference,Reciprocal,Tanh,Sum,Mean,Prod,Exp"
)
"""Operations of TensorFlow that keep float32 where convolutions have bfloat16, in which losses become NaN."""
RNG = np.random.default_rng(0)


def prepare(arguments: argparse.Namespace) -> None:
    """Write arrays that need no reader of ours."""
    from napari_deepretina.data import Subset, open_dataset
    from napari_deepretina.training.asked import weighted

    index: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    for text in arguments.data:
        path, weight = weighted(text)
        dataset, split = open_dataset(path)
        if split is None:
            raise SystemExit(f"{path} has no split")
        for part in index:
            chosen = Subset(dataset, split.part(part))
            for number, sample in enumerate(chosen[k] for k in range(len(chosen))):
                file = f"{part}/{Path(path).stem}_{number:04}.npz"
                (arguments.folder / part).mkdir(parents=True, exist_ok=True)
                np.savez_compressed(arguments.folder / file, image=sample.image, labels=sample.labels)
                index[part].append({"file": file, "set": Path(path).stem, "weight": weight})
    (arguments.folder / "index.json").write_text(json.dumps(index))
    print({part: len(files) for part, files in index.items()})


def read(folder: Path, part: str) -> list[dict[str, Any]]:
    """What `prepare` wrote of a part."""
    content: dict[str, list[dict[str, Any]]] = json.loads((folder / "index.json").read_text())
    return content[part]


def for_stardist(image: np.ndarray) -> np.ndarray:
    """Three channels, normalised as StarDist's examples do."""
    from csbdeep.utils import normalize

    colour = image[..., :3] if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    return normalize(colour.astype(np.float32), 1, 99.8, axis=(0, 1, 2))


def augmented(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flips, quarter turns, and another intensity."""
    turns = int(RNG.integers(4))
    image, labels = np.rot90(image, turns), np.rot90(labels, turns)
    if RNG.random() < 0.5:
        image, labels = image[::-1], labels[::-1]
    return image * RNG.uniform(0.6, 2) + RNG.uniform(-0.2, 0.2), labels


def train(arguments: argparse.Namespace) -> None:
    """One call of StarDist's training, in its own environment."""
    from csbdeep.utils import download_and_extract_zip_file  # noqa: F401 - tells early if this is not it
    from stardist import fill_label_holes
    from stardist.models import Config2D, StarDist2D

    if arguments.precision == "bfloat16":
        import tensorflow

        os.environ["TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_INFERLIST_REMOVE"] = FLOAT32
        tensorflow.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    held: list[tuple[np.ndarray, np.ndarray]] = []
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for number, entry in enumerate(read(arguments.folder, "train")):
        with np.load(arguments.folder / entry["file"]) as arrays:
            pair = for_stardist(arrays["image"]), fill_label_holes(arrays["labels"])
        if number % HELD == HELD - 1:
            held.append(pair)
        else:
            pairs += [pair] * entry["weight"]
    epochs = max(1, arguments.steps // 100)
    config = Config2D(
        n_rays=32, grid=(2, 2), n_channel_in=3, train_patch_size=(256, 256), train_batch_size=4,
        train_epochs=epochs, train_steps_per_epoch=min(100, arguments.steps), train_tensorboard=False,
        use_gpu=False,
    )  # fmt: skip
    np.random.seed(0)  # noqa: NPY002 - StarDist draws its patches from there
    model = StarDist2D(config, name="stardist", basedir=str(arguments.folder))
    begun = time.perf_counter()
    inputs, truth = map(list, zip(*pairs, strict=True))
    own = tuple(map(list, zip(*held, strict=True)))
    model.train(inputs, truth, validation_data=own, augmenter=augmented)
    hours = (time.perf_counter() - begun) / 3600
    model.keras_model.save_weights(str(arguments.folder / "stardist" / "last.weights.h5"))
    thresholds = model.optimize_thresholds(*own)
    told = {
        "hours": hours,
        "steps": epochs * config.train_steps_per_epoch,
        "precision": arguments.precision,
        "thresholds": str(thresholds),
    }
    (arguments.folder / "stardist.json").write_text(json.dumps(told))
    print(told)


def predict(arguments: argparse.Namespace) -> None:
    """Labels of the validation images by one of the two, its seconds and memory."""
    out = arguments.folder / f"found_{'ours' if arguments.weights else 'stardist'}"
    out.mkdir(exist_ok=True)
    entries = read(arguments.folder, "val")
    if arguments.weights:
        from napari_deepretina.inference.segment import segment
        from napari_deepretina.model.weights import load_model

        network = load_model(arguments.weights, precision="float32")

        def found(image: np.ndarray) -> np.ndarray:
            return segment(image, model=network).labels
    else:
        from stardist.models import StarDist2D

        model = StarDist2D(None, name="stardist", basedir=str(arguments.folder))

        def found(image: np.ndarray) -> np.ndarray:
            return model.predict_instances(for_stardist(image))[0].astype(np.int32)

    seconds = []
    for number, entry in enumerate(entries):
        with np.load(arguments.folder / entry["file"]) as arrays:
            image = arrays["image"]
        if not number:
            found(image)  # what is only done once
        begun = time.perf_counter()
        labels = found(image)
        seconds.append(time.perf_counter() - begun)
        np.save(out / f"{number:04}.npy", labels)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (out / "told.json").write_text(json.dumps({"seconds": float(np.mean(seconds)), "megabytes": peak}))


def compare(arguments: argparse.Namespace) -> None:
    """Run both, score both, print a table."""
    import measure
    from napari_deepretina.evaluation import match
    from napari_deepretina.evaluation.scores import score_image

    own = [sys.executable, __file__, "predict", str(arguments.folder)]
    runs = {"ours": [*own, "--weights", arguments.weights], "stardist": [arguments.peer, *own[1:]]}
    entries = read(arguments.folder, "val")
    sets = list(dict.fromkeys(entry["set"] for entry in entries))
    rows = []
    for name, command in runs.items():
        subprocess.run(command, check=True)
        out = arguments.folder / f"found_{name}"
        scores: dict[str, list[Any]] = {s: [] for s in sets}
        for number, entry in enumerate(entries):
            with np.load(arguments.folder / entry["file"]) as arrays:
                matched = match(arrays["labels"], np.load(out / f"{number:04}.npy"))
            scores[entry["set"]].append(score_image(matched, entry["file"]))
        told = json.loads((out / "told.json").read_text())
        means = [float(np.mean([s.dsb_score for s in scores[k]])) for k in sets]
        fifty = float(np.mean([np.mean([s.ap[0] for s in scores[k]]) for k in sets]))
        rows.append(
            [name, *(f"{m:.3f}" for m in means), f"{np.mean(means):.4f}", f"{fifty:.3f}",
             f"{told['seconds']:.2f}", f"{told['megabytes']:.0f}"]
        )  # fmt: skip
    print(f"{len(entries)} validation images, CPU; dsb_score of each set, their mean, AP .50 (mean of sets)")
    print(measure.table(["network", *sets, "mean", "AP .50", "seconds an image", "peak MB"], rows))
    print((arguments.folder / "stardist.json").read_text())


def main() -> None:
    """One of the four steps."""
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    parser.add_argument("step", choices=["prepare", "train", "predict", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", nargs="+", default=[], help="prepare: sets, PATH or PATH@WEIGHT")
    parser.add_argument("--steps", type=int, default=12_000, help="train: optimiser steps")
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16"], default="float32",
        help="train: what TensorFlow multiplies in, its weights being float32; bfloat16 as ours are trained",
    )  # fmt: skip
    parser.add_argument("--weights", help="predict, compare: ours")
    parser.add_argument("--peer", help="compare: the Python of StarDist's environment")
    arguments = parser.parse_args()
    {"prepare": prepare, "train": train, "predict": predict, "compare": compare}[arguments.step](arguments)


if __name__ == "__main__":
    main()
