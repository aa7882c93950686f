"""What corrections of one image are worth on others like it, by a simulated person who knows the truth.

Of each group of images that the weights were not trained on (an organ, a patient, a specimen), the first ones
are segmented; the k worst answers in them are corrected from the truth (missed nuclei drawn, wrong ones
deleted, outlines mended, right ones accepted); the heads are taught; and the rest of these images and the
group's other images are segmented with what came of it. ``known`` are the validation images of the set that
the weights were trained on, to see what is lost there.

``python benchmarks/teach.py --data ../shared/data --corrections 5,10,20,50``
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import measure
from napari_deepretina.data.open import open_dataset
from napari_deepretina.data.sample import Sample
from napari_deepretina.evaluation import match
from napari_deepretina.evaluation.scores import score_image
from napari_deepretina.inference.segment import Segmentation, segment
from napari_deepretina.inference.steps import drain
from napari_deepretina.model.weights import LoadedModel, load_model
from napari_deepretina.teaching.corrections import SURE, Corrections
from napari_deepretina.teaching.material import material_of
from napari_deepretina.teaching.teach import Lessons, Material, Teacher

FIRST = 3
"""Images that are corrected at most, where one holds too few nuclei."""
BADLY = 0.35
"""Groups that the base scores less on are those that teaching is for."""
SETS = ("nuinsseg", "tnbc", "kromp", "aitslab", "aisegcell_brightfield", "brifiseg_brightfield")
MENDED = 0.8
"""Outlines of a lower IoU with the truth are mended."""


@dataclass(frozen=True)
class Corrected:
    """An image, the network's answer, what was corrected in it, and the truth that is known by that."""

    sample: Sample
    base: Segmentation
    corrections: Corrections
    touched: list[int]


def groups(data: Path) -> dict[str, list[Sample]]:
    """Images by organ, patient, specimen or set."""
    found: dict[str, list[Sample]] = defaultdict(list)
    for name in SETS:
        dataset, _ = open_dataset(data / "open" / f"{name}.zip")
        for k, image in enumerate(dataset.names):
            plain = re.sub(r"_\d+$", "", image)
            found[plain if name in ("nuinsseg", "tnbc", "kromp") else name].append(dataset[k])
    dataset, split = open_dataset(data / "stage1_train_pairs.zip")
    assert split is not None
    for k, image in enumerate(dataset.names):
        if image in split.val:
            found["known (stage1)"].append(dataset[k])
    return found


def corrected(sample: Sample, base: Segmentation, count: int) -> Corrected:
    """The image after so many corrections of what is most wrong."""
    labels, truth = base.labels.astype(np.int32), sample.labels
    boxes = base.prediction.raw.boxes[base.instances.sources]
    matched = match(truth, labels)
    of_true: dict[int, tuple[float, int]] = {int(t): (0.0, 0) for t in matched.true_ids}
    of_pred = {int(p): 0.0 for p in matched.pred_ids}
    for (t, p), iou in zip(matched.pairs.tolist(), matched.iou.tolist(), strict=True):
        true, pred = int(matched.true_ids[t]), int(matched.pred_ids[p])
        of_true[true] = max(of_true[true], (iou, pred))
        of_pred[pred] = max(of_pred[pred], iou)
    chance = np.random.default_rng(0)
    todo = [(1 - iou if iou > 0.5 else 1.0, chance.random(), t, 0) for t, (iou, _) in of_true.items()]
    todo += [(1.0, chance.random(), 0, p) for p, iou in of_pred.items() if iou <= 0.5]
    right: list[int] = []
    deleted: list[int] = []
    touched: list[int] = []
    last = int(labels.max(initial=0))
    for _, _, true, pred in sorted(todo, reverse=True)[:count]:
        if pred:
            deleted.append(pred)
            labels[labels == pred] = 0
            continue
        touched.append(true)
        mask, (iou, known) = truth == true, of_true[true]
        if iou > 0.5:
            right.append(known)
            if iou < MENDED:
                labels[labels == known] = 0
                labels[mask & ~np.isin(labels, right)] = known
            continue
        for other in np.unique(labels[mask]).tolist():
            if other and other not in right and of_pred.get(other, 1) <= 0.5:
                deleted.append(other)
                labels[labels == other] = 0
        last += 1
        right.append(last)
        labels[mask & ~np.isin(labels, right[:-1])] = last
    right = [label for label in right if (labels == label).any()]
    scores = base.instances.scores
    sure = [
        i
        for i in np.unique(labels).tolist()
        if 0 < i <= len(scores) and i not in right and scores[i - 1] >= SURE
    ]
    wrong = boxes[np.array(sorted(set(deleted)), int) - 1].astype(np.float32).reshape(-1, 4)
    known_now = Corrections(labels, np.array(sorted(right), np.int64), np.array(sure, np.int64), wrong)
    return Corrected(sample, base, known_now, touched)


def rest_of(one: Corrected, labels: np.ndarray) -> float:
    """Score on what was not corrected; NaN where nothing is left."""
    zone = np.isin(one.sample.labels, one.touched)
    truth = np.where(zone, 0, one.sample.labels)
    ids, sizes = np.unique(labels, return_counts=True)
    inside = dict(zip(*(v.tolist() for v in np.unique(labels[zone], return_counts=True)), strict=True))
    over = [i for i, n in zip(ids.tolist(), sizes.tolist(), strict=True) if inside.get(i, 0) > n / 2]
    return score(truth, np.where(np.isin(labels, over), 0, labels)) if truth.any() else float("nan")


def score(truth: np.ndarray, labels: np.ndarray) -> float:
    """Competition score of one image."""
    return score_image(match(truth, labels)).dsb_score


@dataclass
class Bench:
    """One network, and its answers that are needed again."""

    model: LoadedModel
    others: int

    def __post_init__(self) -> None:
        self.known: dict[str, Segmentation] = {}

    def base(self, sample: Sample) -> Segmentation:
        """What the base makes of an image."""
        if sample.name not in self.known:
            self.known[sample.name] = segment(sample.image, model=self.model)
        return self.known[sample.name]

    def rows(self, name: str, samples: Sequence[Sample], counts: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Figures of a group for each number of corrections."""
        order = np.random.default_rng(1).permutation(len(samples)).tolist()
        shuffled = [samples[i] for i in order]
        for count in counts:
            left, first = count, []
            for sample in shuffled[: max(1, min(FIRST, len(samples) - 1))]:
                if left <= 0:
                    break
                first.append(corrected(sample, self.base(sample), left))
                left -= len(first[-1].corrections)
            others = shuffled[len(first) : len(first) + self.others]
            lessons, seconds = self.taught(first)
            if lessons is None:
                continue
            again = [segment(s.image, model=lessons.model).labels for s in others]
            rest = [segment(one.sample.image, model=lessons.model).labels for one in first]
            yield {
                "group": name,
                "corrections": count,
                "helped": lessons.helped,
                "base": float(np.mean([score(s.labels, self.base(s).labels) for s in others])),
                "taught": float(np.mean([score(s.labels, x) for s, x in zip(others, again, strict=True)])),
                "rest base": _mean([rest_of(one, one.base.labels) for one in first]),
                "rest taught": _mean([rest_of(one, x) for one, x in zip(first, rest, strict=True)]),
                "seconds": seconds,
                "told": str(lessons),
            }

    def taught(self, first: Sequence[Corrected]) -> tuple[Lessons | None, float]:
        """What the corrections lead to, and the seconds that it took."""
        if sum(len(one.corrections) for one in first) < 3:
            return None, 0.0
        begun = time.perf_counter()
        material: list[Material] = [
            material_of(one.sample.image, one.corrections, self.model, one.base) for one in first
        ]
        lessons = drain(
            Teacher(self.model).teach(material, first[0].base.settings.postprocessing(self.model.info))
        )
        return lessons, time.perf_counter() - begun


def _mean(values: Sequence[float]) -> float:
    told = [v for v in values if v == v]
    return float(np.mean(told)) if told else float("nan")


def summary(rows: Sequence[dict[str, Any]], counts: Sequence[int]) -> list[list[str]]:
    """Means over the groups that the base does badly on, and over the others."""
    table = []
    for count in counts:
        mine = [r for r in rows if r["corrections"] == count]
        for what, chosen in (
            (f"under {BADLY}", [r for r in mine if float(r["base"]) < BADLY]),
            ("others", [r for r in mine if float(r["base"]) >= BADLY]),
        ):
            if not chosen:
                continue
            gains = np.array([float(r["taught"]) - float(r["base"]) for r in chosen])
            rest = np.array([float(r["rest taught"]) - float(r["rest base"]) for r in chosen])
            table.append([
                str(count), f"{what} ({len(chosen)})", f"{np.mean([r['base'] for r in chosen]):.3f}",
                f"{np.mean([r['taught'] for r in chosen]):.3f}",
                f"{gains.mean():+.3f}", f"{gains.min():+.3f}",
                f"{np.nanmean(rest):+.3f}", f"{np.mean([r['helped'] for r in chosen]):.0%}",
                f"{np.median([r['seconds'] for r in chosen]):.1f}",
            ])  # fmt: skip
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", default="nuclei-small")
    parser.add_argument("--corrections", default="20")
    parser.add_argument("--groups", default=".", help="regular expression")
    parser.add_argument("--others", type=int, default=6, help="other images of a group that are scored")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(load_model(arguments.weights), arguments.others)
    counts = [int(k) for k in arguments.corrections.split(",")]
    rows: list[dict[str, Any]] = []
    for name, samples in groups(arguments.data).items():
        if not re.search(arguments.groups, name) or len(samples) < 2:
            continue
        for row in bench.rows(name, samples, counts):
            rows.append(row)
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1))
    head = [
        "corrections",
        "groups",
        "base",
        "taught",
        "gain",
        "least",
        "rest of the image",
        "kept",
        "seconds",
    ]
    print(measure.table(head, summary(rows, counts)))


if __name__ == "__main__":
    main()
