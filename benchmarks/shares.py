"""Where the time of one look goes: by step, and by operator of torch.

``python benchmarks/shares.py --weights nuclei nuclei-small --threads 1``
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile

import measure
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.inference.segment import segment
from napari_deepretina.model.detector import Detector
from napari_deepretina.model.weights import load_model

STEPS = {
    "maps": "backbone and pyramid",
    "consider": "proposals",
    "answer": "box head",
    "shapes": "masks",
}
"""Methods of the detector, and what they are for."""
REST = "reading, scaling, rescoring, post-processing"
OPERATORS = 8


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", nargs="+", default=["nuclei", "nuclei-small"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    image, _ = synthetic_nuclei((1024, 1024), 500, diameter=30, seed=5)
    steps: dict[str, list[str]] = {name: [] for name in [*STEPS.values(), REST, "all, seconds"]}
    operators: dict[str, list[str]] = {}
    heads = []
    for weights in arguments.weights:
        for precision in ("float32", "bfloat16"):
            heads.append(f"{weights}, {precision}")
            model = load_model(weights, precision=precision)
            segment(image, model=model)
            turns = []
            for _ in range(arguments.runs):
                begun = time.perf_counter()
                with timed() as spent:
                    segment(image, model=model)
                turns.append((time.perf_counter() - begun, dict(spent)))
            all_in_all, spent = sorted(turns, key=lambda turn: turn[0])[len(turns) // 2]
            for name in STEPS.values():
                steps[name].append(f"{spent[name] / all_in_all:.1%}")
            steps[REST].append(f"{1 - sum(spent.values()) / all_in_all:.1%}")
            steps["all, seconds"].append(f"{statistics.median(t for t, _ in turns):.2f}")
            for name, share in by_operator(image, model):
                operators.setdefault(name, ["–"] * (len(heads) - 1)).append(f"{share:.1%}")
            for shares in operators.values():
                shares += ["–"] * (len(heads) - len(shares))
    print(f"1024², 500 nuclei, CPU, {arguments.threads} threads, median of {arguments.runs}")
    print(measure.table(["step", *heads], [[name, *shares] for name, shares in steps.items()]))
    print(measure.table(["operator", *heads], [[name, *shares] for name, shares in operators.items()]))


@contextmanager
def timed():
    """Seconds of each of the detector's steps, while this lasts."""
    spent: Counter[str] = Counter()
    kept = {name: getattr(Detector, name) for name in STEPS}

    def watched(name, method):
        def call(*arguments, **options):
            begun = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                spent[STEPS[name]] += time.perf_counter() - begun

        return call

    for name, method in kept.items():
        setattr(Detector, name, watched(name, method))
    try:
        yield spent
    finally:
        for name, method in kept.items():
            setattr(Detector, name, method)


def by_operator(image, model):
    """The operators that take most time, with their shares."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        segment(image, model=model)
    events = seen.key_averages()
    whole = sum(e.self_cpu_time_total for e in events)
    top = sorted(events, key=lambda e: -e.self_cpu_time_total)[:OPERATORS]
    return [(e.key, e.self_cpu_time_total / whole) for e in top]


if __name__ == "__main__":
    main()
