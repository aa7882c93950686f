"""Scores of an image and of a set of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.evaluation.matching import ImageMatch, match

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""IoU thresholds of the 2018 Data Science Bowl: 0.50, 0.55 … 0.95."""


@dataclass(frozen=True)
class ImageScore:
    """Scores of one image; each table follows THRESHOLDS."""

    name: str
    ap: tuple[float, ...]
    f1: tuple[float, ...]
    hits: tuple[int, ...]
    true: int
    predicted: int
    split: int
    merged: int

    @property
    def dsb_score(self) -> float:
        """Mean over the thresholds of TP / (TP + FP + FN)."""
        return float(np.mean(self.ap))


@dataclass(frozen=True)
class Report:
    """Scores of a set of images."""

    images: tuple[ImageScore, ...]

    @property
    def dsb_score(self) -> float:
        """The competition's score: mean over images of their scores."""
        return float(np.mean([i.dsb_score for i in self.images])) if self.images else float("nan")

    @property
    def f1(self) -> float:
        """Mean over images and thresholds of F1, as the competition's paper reports it."""
        return float(np.mean([i.f1 for i in self.images])) if self.images else float("nan")

    @property
    def ap(self) -> dict[str, float]:
        """Mean over images of TP / (TP + FP + FN) at each threshold, keyed "0.50" … "0.95"."""
        return self._mean("ap")

    @property
    def f1_table(self) -> dict[str, float]:
        """Mean over images of F1 at each threshold."""
        return self._mean("f1")

    @property
    def ap_pooled(self) -> dict[str, float]:
        """TP / (TP + FP + FN) with the objects of all images counted together."""
        hits = np.sum([i.hits for i in self.images], axis=0)
        objects = sum(i.true + i.predicted for i in self.images)
        return _keyed([float(h / (objects - h)) if objects else 1.0 for h in hits])

    def _mean(self, field: str) -> dict[str, float]:
        return _keyed(np.mean([getattr(i, field) for i in self.images], axis=0).tolist())

    def to_json(self) -> dict[str, Any]:
        """Plain values: dsb_score, f1, ap, f1_table, ap_pooled, totals and per_image."""
        return {
            "dsb_score": self.dsb_score,
            "f1": self.f1,
            "ap": self.ap,
            "f1_table": self.f1_table,
            "ap_pooled": self.ap_pooled,
            "images": len(self.images),
            "true": sum(i.true for i in self.images),
            "predicted": sum(i.predicted for i in self.images),
            "split": sum(i.split for i in self.images),
            "merged": sum(i.merged for i in self.images),
            "per_image": {
                i.name: {
                    "dsb_score": i.dsb_score,
                    "f1": float(np.mean(i.f1)),
                    "ap": _keyed(list(i.ap)),
                    "true": i.true,
                    "predicted": i.predicted,
                    "missed": i.true - i.hits[0],
                    "extra": i.predicted - i.hits[0],
                    "split": i.split,
                    "merged": i.merged,
                }
                for i in self.images
            },
        }

    def table(self) -> str:
        """A few lines for a terminal."""
        totals = self.to_json()
        lines = [
            f"images {totals['images']}   nuclei true {totals['true']}, predicted {totals['predicted']}, "
            f"split {totals['split']}, merged {totals['merged']}",
            f"dsb_score {self.dsb_score:.4f}   f1 {self.f1:.4f}",
            "IoU        " + " ".join(f"{t:>6}" for t in self.ap),
            "AP         " + " ".join(f"{v:6.3f}" for v in self.ap.values()),
            "AP pooled  " + " ".join(f"{v:6.3f}" for v in self.ap_pooled.values()),
            "F1         " + " ".join(f"{v:6.3f}" for v in self.f1_table.values()),
        ]
        return "\n".join(lines)


def threshold_table(score: ImageScore) -> str:
    """AP and F1 of one image at each IoU, as three lines of equal width."""
    rows = {"IoU": THRESHOLDS, "AP": score.ap, "F1": score.f1}
    return "\n".join(f"{name:4}" + "".join(f"{v:5.2f}" for v in row) for name, row in rows.items())


def score_image(matched: ImageMatch, name: str = "") -> ImageScore:
    """Score one matched image; neither truth nor prediction scores 1 (competition rule)."""
    counts = [matched.counts(t) for t in THRESHOLDS]
    return ImageScore(
        name=name,
        ap=tuple(_ratio(tp, tp + fp + fn) for tp, fp, fn in counts),
        f1=tuple(_ratio(2 * tp, 2 * tp + fp + fn) for tp, fp, fn in counts),
        hits=tuple(tp for tp, _, _ in counts),
        true=len(matched.true_ids),
        predicted=len(matched.pred_ids),
        split=len(matched.split()),
        merged=len(matched.merged()),
    )


def evaluate_set(
    images: Iterable[tuple[str, NDArray[np.integer], NDArray[np.integer]]],
) -> Report:
    """Score images given as (name, truth, prediction), two label images of equal shape each."""
    return Report(tuple(score_image(match(t, p), name) for name, t, p in images))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _keyed(values: list[float]) -> dict[str, float]:
    return {f"{t:.2f}": float(v) for t, v in zip(THRESHOLDS, values, strict=True)}
