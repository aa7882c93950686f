"""Predicted nuclei against true ones, one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.errors import UserError
from napari_deepretina.evaluation.matching import ImageMatch, match
from napari_deepretina.evaluation.scores import ImageScore, score_image

KIND_COLOURS = {
    "hit": "#4caf50", "miss": "#e53935", "extra": "#ffb300", "split": "#8e24aa", "merge": "#1e88e5",
}  # fmt: skip
KINDS = tuple(KIND_COLOURS)


@dataclass(frozen=True)
class Errors:
    """What is right and wrong in one image.

    Attributes
    ----------
    matched, score : the comparison and its figures.
    kinds : ``hit``, ``miss``, ``extra``, ``split``, ``merge`` → ids; those of misses and splits are true ids,
        the others predicted ones.
    worst : rows of (true id, predicted id, IoU), the worst first; 0 stands for none.
    """

    matched: ImageMatch
    score: ImageScore
    kinds: dict[str, NDArray[np.int64]]
    worst: list[tuple[int, int, float]]

    def picture(self, truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> NDArray[np.int32]:
        """(H, W) kind of each pixel, 1 + its place in `KINDS`; errors lie over hits."""
        out = np.zeros(truth.shape, np.int32)
        for kind in ("hit", "extra", "merge", "miss", "split"):
            source = truth if kind in ("miss", "split") else predicted
            out[np.isin(source, self.kinds[kind])] = 1 + KINDS.index(kind)
        return out

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "dsb_score": self.score.dsb_score,
            "f1": float(np.mean(self.score.f1)),
            "ap": list(self.score.ap),
            "f1_table": list(self.score.f1),
            "kinds": {k: v.tolist() for k, v in self.kinds.items()},
            "worst": [list(row) for row in self.worst],
        }


def compare_labels(truth: NDArray[np.integer], predicted: NDArray[np.integer], iou: float = 0.5) -> Errors:
    """Match two (H, W) label images.

    Raises
    ------
    UserError
        If they differ in shape.
    """
    if truth.shape != predicted.shape:
        raise UserError(f"truth and prediction differ in size: {truth.shape} and {predicted.shape}")
    matched = match(truth, predicted)
    hits = matched.hits(iou)
    kinds = {
        "hit": hits[:, 1],
        "miss": matched.missed(iou),
        "extra": matched.extra(iou),
        "split": np.array([i for i, _ in matched.split()], np.int64),
        "merge": np.array([i for i, _ in matched.merged()], np.int64),
    }
    best = dict.fromkeys(matched.true_ids.tolist(), (0, 0.0))
    for (true, pred), value in zip(matched.pairs.tolist(), matched.iou.tolist(), strict=True):
        true_id, pred_id = int(matched.true_ids[true]), int(matched.pred_ids[pred])
        if value > best[true_id][1]:
            best[true_id] = (pred_id, value)
    rows = [(true, pred, value) for true, (pred, value) in best.items()]
    rows += [(0, int(i), 0.0) for i in kinds["extra"].tolist() if i not in {p for _, p, _ in rows}]
    return Errors(matched, score_image(matched), kinds, sorted(rows, key=lambda row: row[2]))


def precision_recall(
    errors: Errors, scores: NDArray[np.floating], iou: float = 0.5
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall as the score threshold falls.

    Parameters
    ----------
    scores : (N,) of predicted ids 1…N.

    Returns
    -------
    thresholds, precision, recall : (N,) each, highest threshold first.
    """
    ids = errors.matched.pred_ids
    told = np.asarray(scores, float)[ids - 1]
    order = np.argsort(-told, kind="stable")
    hit = np.isin(ids, errors.matched.hits(iou)[:, 1])[order]
    right = np.cumsum(hit)
    true = max(1, len(errors.matched.true_ids))
    return told[order], right / np.arange(1, len(ids) + 1), right / true
