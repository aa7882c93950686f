"""Seconds and memory of ours beside what people would pick instead, in one run, each in its own environment.

``python benchmarks/peers_speed.py --data ../shared/data/stage1_train.zip --threads 1
--stardist ENVIRONMENT/bin/python --cellpose ENVIRONMENT/bin/python``

An environment of StarDist is made with ``pip install stardist==0.9.2 tensorflow-cpu``, one of Cellpose with
``pip install cellpose``; where none is given, that one is left out. All processes stay alive and take turns,
one thread each (or as many as ``--threads`` says), so that drift hits all alike.

Of those whose weights cannot be had without a network, random weights run: the seconds of a network do not
depend on them, those of what comes after do. So StarDist's suppression and Cellpose's dynamics run apart, on
the answer that a perfect network would give. Ours is timed from pixels to labels.

The last lines tell how near ours comes to the limit: its multiply-adds, counted, beside what the processor
reaches on one large plain convolution of the same precision.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import measure
from napari_deepretina.data.open import open_dataset
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.export.tiff import write_image
from napari_deepretina.inference.segment import segment
from napari_deepretina.model.weights import load_model

FIELDS = {"512²": (512, 120), "1024²": (1024, 500)}
"""Side and nuclei."""
FIRST = "torchvision, float32"


class Contestant:
    """A process that works on orders."""

    def __init__(self, python: str, *words: str) -> None:
        script = Path(__file__).with_name("contestants.py")
        command = [python, str(script), *words]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __call__(self, kind: str, what: object) -> dict[str, Any] | None:
        """Seconds, count and peak memory of one piece of work; None if there is no such work."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(kind, what, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended: run it by hand to see why")
        told: dict[str, Any] | None = json.loads(line)
        return told


def contestants(arguments: argparse.Namespace) -> dict[str, Contestant]:
    """All that take part."""
    threads = str(arguments.threads)
    made = {
        f"ours, {weights}, {precision}": Contestant(sys.executable, "ours", weights, precision, threads)
        for weights in ("nuclei", "nuclei-small")
        for precision in ("float32", "auto")
    }
    for precision in ("float32", "bfloat16"):
        made[f"torchvision, {precision}"] = Contestant(sys.executable, "torchvision", precision, threads)
    for name in ("stardist", "cellpose"):
        if python := getattr(arguments, name):
            made[name] = Contestant(python, name, threads)
    return made


def timed(running: dict[str, Contestant], kind: str, what: object, runs: int) -> list[list[object]]:
    """A row for each that does this kind of work; the first turn counts only where it is the last as well."""
    told: dict[str, list[dict[str, Any]]] = {}
    for turn in range(runs + 1):
        for name, ask in running.items():
            if turn and name == "cellpose" and kind == "image":  # takes minutes
                continue
            answer = ask(kind, what)
            if answer is not None:
                told.setdefault(name, []).append(answer)
    seconds = {n: statistics.median(a["seconds"] for a in (all_[1:] or all_)) for n, all_ in told.items()}
    reference = seconds.get(FIRST)
    return [
        [n, f"{s:.3f}", f"{s / reference:.3f}" if reference else "–", f"{told[n][-1]['peak']:.0f}",
         told[n][-1]["count"]]
        for n, s in seconds.items()
    ]  # fmt: skip


def limit(threads: int) -> list[list[object]]:
    """How near the networks come to what the processor does at best."""
    torch.set_num_threads(threads)
    image, _ = synthetic_nuclei((1024, 1024), 500, diameter=30, seed=5)
    rows: list[list[object]] = []
    for precision in ("float32", "bfloat16"):
        dtype = getattr(torch, precision)
        x = torch.randn(1, 256, 128, 128, dtype=dtype).contiguous(memory_format=torch.channels_last)
        w = torch.randn(256, 256, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
        work = 2 * 256 * 256 * 9 * 128 * 128 / 1e9
        with torch.inference_mode():
            peak = work / min(_seconds(lambda x=x, w=w: torch.conv2d(x, w, padding=1)) for _ in range(9))
        for weights in ("nuclei", "nuclei-small"):
            model = load_model(weights, precision=precision)
            segment(image, model=model)
            with FlopCounterMode(display=False) as counter:
                segment(image, model=model)
            needed = counter.get_total_flops() / 1e9
            spent = statistics.median(segment(image, model=model).seconds["network"] for _ in range(5))
            reached = needed / spent
            rows.append(
                [
                    weights,
                    precision,
                    f"{needed / 2:.0f}",
                    f"{peak:.0f}",
                    f"{reached:.0f}",
                    f"{reached / peak:.0%}",
                ]
            )
    return rows


def _seconds(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="where the folder's images come from")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--count", type=int, default=50, help="images of the folder")
    parser.add_argument("--stardist", help="its Python")
    parser.add_argument("--cellpose", help="its Python")
    arguments = parser.parse_args()
    head = ["contestant", "seconds", "ratio", "peak MB, all in all", "count"]
    running = contestants(arguments)
    threads = f"{arguments.threads} thread{'s' if arguments.threads > 1 else ''}"
    with tempfile.TemporaryDirectory() as temporary:
        for name, (side, count) in FIELDS.items():
            image, labels = synthetic_nuclei((side, side), count, diameter=30, seed=5)
            file, truth = Path(temporary) / "image.npy", Path(temporary) / "labels.npy"
            np.save(file, image)
            np.save(truth, labels)
            print(f"\n{name}, {labels.max()} nuclei, CPU, {threads}, median of {arguments.runs}")
            print(measure.table(head, timed(running, "image", file, arguments.runs)), flush=True)
            after = {n: c for n, c in running.items() if n in ("stardist", "cellpose")}
            rows = timed(after, "after", truth, arguments.runs)
            print(f"\n{name}: after the network, on perfect answers")
            print(measure.table(head, rows), flush=True)
        folder = Path(temporary) / "folder"
        folder.mkdir()
        dataset, _ = open_dataset(arguments.data)
        for k in range(arguments.count):
            write_image(dataset[k].image, folder / f"{k:04}.png")
        few = {n: c for n, c in running.items() if n != "cellpose"}
        print(f"\nfolder of {arguments.count} images, CPU, {threads}, one pass")
        print(measure.table(head, timed(few, "folder", folder, 0)), flush=True)
    head = ["network", "precision", "giga multiply-adds", "peak GFLOP/s", "reached GFLOP/s", "share"]
    print(f"\n1024², 500 nuclei, CPU, {threads}: the limit")
    print(measure.table(head, limit(arguments.threads)))


if __name__ == "__main__":
    main()
