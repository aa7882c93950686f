"""Views and methods of post-processing on the validation images: score and seconds an image, in one table.

``python training/methods.py --data ../shared/data/stage1_train.zip [--weights nuclei] [--json FILE]``

The network runs once for each set of views; every method, dilation and score threshold is tried on the same
raw detections. *At advice* is the score threshold that the weights file recommends, *best* the best of those
tried.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from napari_deepretina.data import Dataset
from napari_deepretina.evaluation import match
from napari_deepretina.evaluation.scores import Report, score_image
from napari_deepretina.inference.segment import segment_steps
from napari_deepretina.inference.settings import make_settings
from napari_deepretina.inference.steps import drain
from napari_deepretina.instances import RawInstances
from napari_deepretina.model.weights import LoadedModel, load_model
from napari_deepretina.postprocess import PostprocessSettings
from napari_deepretina.postprocess.pipeline import Postprocessor
from napari_deepretina.training.run import split_data

SCORES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CASES = (("none", 0), ("none", 1), ("flips", 0), ("flips-rotations", 0), ("deep-retina", 0))


def look(model: LoadedModel, val: Dataset, views: str) -> tuple[list[RawInstances], float]:
    """Raw detections of every image, and the network's seconds an image."""
    raws, seconds = [], 0.0
    for sample in (val[i] for i in range(len(val))):
        begun = time.perf_counter()
        steps = segment_steps(sample.image, model, make_settings(tta=views), tunable=True)
        raws.append(drain(steps).prediction.raw)
        seconds += time.perf_counter() - begun
    return raws, seconds / len(val)


def judge(raws: list[Postprocessor], val: Dataset, settings: PostprocessSettings) -> tuple[Report, float]:
    """Report, and post-processing's seconds an image."""
    scores, seconds = [], 0.0
    for index, postprocess in enumerate(raws):
        begun = time.perf_counter()
        labels = postprocess(settings).to_labels()
        seconds += time.perf_counter() - begun
        sample = val[index]
        scores.append(score_image(match(sample.labels, labels), sample.name))
    return Report(tuple(scores)), seconds / len(raws)


def row(
    case: tuple[str, int], method: str, seconds: float, reports: dict[float, Any], advice: float
) -> dict[str, Any]:
    """One line of the table."""
    best = max(reports, key=lambda s: reports[s][0].dsb_score)
    report = reports[best][0]
    return {
        "views": case[0],
        "dilation": case[1],
        "method": method,
        "at advice": round(reports[advice][0].dsb_score, 4),
        "best": round(report.dsb_score, 4),
        "at score": best,
        "F1": round(report.f1, 4),
        "AP .50": round(report.ap["0.50"], 4),
        "AP .75": round(report.ap["0.75"], 4),
        "network s": round(seconds, 2),
        "after s": round(reports[best][1], 3),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", default="nuclei")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    _, val = split_data([arguments.data])
    model = load_model(arguments.weights, precision="float32")
    advice = float(model.info.postprocess.get("score", 0.5))
    rows: list[dict[str, Any]] = []
    looked: dict[str, tuple[list[RawInstances], float]] = {}
    for case in CASES:
        views, dilation = case
        if views not in looked:
            looked[views] = look(model, val, views)
        raws = [Postprocessor(raw) for raw in looked[views][0]]
        for method in ("corrected", "original"):
            advised = {**model.info.postprocess, "method": method, "dilation": dilation}
            base = PostprocessSettings.model_validate(advised)
            tried = {s: judge(raws, val, base.model_copy(update={"score": s})) for s in {*SCORES, advice}}
            rows.append(row(case, method, looked[views][1], tried, advice))
            if len(rows) == 1:
                print("| " + " | ".join(rows[0]) + " |\n|" + " --- |" * len(rows[0]), flush=True)
            print("| " + " | ".join(str(v) for v in rows[-1].values()) + " |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2), "utf-8")


if __name__ == "__main__":
    main()
