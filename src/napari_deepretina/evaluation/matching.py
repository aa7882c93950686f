"""Which predicted object is which true one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_deepretina.instances.labels import ranked


@dataclass(frozen=True)
class ImageMatch:
    """Overlaps between the objects of two label images; only pairs that touch are held.

    Attributes
    ----------
    true_ids, pred_ids : (T,), (P,) int64, rising ids of the two images.
    pairs : (K, 2) int64, positions in true_ids and pred_ids of the pairs that share a pixel.
    iou : (K,) float64, intersection over union of each pair.
    of_true, of_pred : (K,) float64, share of the true, of the predicted object that is shared.
    """

    true_ids: NDArray[np.int64]
    pred_ids: NDArray[np.int64]
    pairs: NDArray[np.int64]
    iou: NDArray[np.float64]
    of_true: NDArray[np.float64]
    of_pred: NDArray[np.float64]

    def hits(self, threshold: float) -> NDArray[np.int64]:
        """(M, 2) ids (true, predicted) with IoU strictly above a threshold of at least 0.5.

        Above 0.5 no object can be in two pairs, so this is the one optimal matching.
        """
        if threshold < 0.5:
            raise ValueError(f"hits are unique for thresholds of at least 0.5, got {threshold}")
        pairs = self.pairs[self.iou > threshold]
        return np.stack([self.true_ids[pairs[:, 0]], self.pred_ids[pairs[:, 1]]], axis=1)

    def counts(self, threshold: float) -> tuple[int, int, int]:
        """Hits, extra (false positives) and missed (false negatives) objects."""
        tp = int(np.count_nonzero(self.iou > threshold)) if threshold >= 0.5 else len(self.hits(threshold))
        return tp, len(self.pred_ids) - tp, len(self.true_ids) - tp

    def missed(self, threshold: float = 0.5) -> NDArray[np.int64]:
        """Ids of true objects without a hit."""
        return np.setdiff1d(self.true_ids, self.hits(threshold)[:, 0])

    def extra(self, threshold: float = 0.5) -> NDArray[np.int64]:
        """Ids of predicted objects without a hit."""
        return np.setdiff1d(self.pred_ids, self.hits(threshold)[:, 1])

    def split(self, share: float = 0.5) -> list[tuple[int, list[int]]]:
        """True objects that contain at least two predicted ones, each by more than `share` of it."""
        return _groups(self.pairs, self.of_pred > share, self.true_ids, self.pred_ids, by=0)

    def merged(self, share: float = 0.5) -> list[tuple[int, list[int]]]:
        """Predicted objects that contain at least two true ones, each by more than `share` of it."""
        return _groups(self.pairs, self.of_true > share, self.pred_ids, self.true_ids, by=1)


def match(truth: NDArray[np.integer], prediction: NDArray[np.integer]) -> ImageMatch:
    """Compare two label images of the same shape.

    Time and memory grow with the number of pixels and of touching pairs, not with T × P.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape}, prediction {prediction.shape}")
    true_ids, t, _ = ranked(truth)
    pred_ids, p, _ = ranked(prediction)
    shared = sparse.coo_matrix(
        (np.ones(t.size, np.int64), (t.ravel(), p.ravel())), (len(true_ids), len(pred_ids))
    ).tocsr()
    true_area = np.asarray(shared.sum(axis=1)).ravel()
    pred_area = np.asarray(shared.sum(axis=0)).ravel()
    both = shared.tocoo()
    keep = (true_ids[both.row] != 0) & (pred_ids[both.col] != 0)
    row, column, overlap = both.row[keep], both.col[keep], both.data[keep]
    union = true_area[row] + pred_area[column] - overlap
    # Positions shift by one where background takes the first place.
    shift = np.array([0 in true_ids, 0 in pred_ids], np.int64)
    return ImageMatch(
        true_ids=true_ids[true_ids != 0].astype(np.int64),
        pred_ids=pred_ids[pred_ids != 0].astype(np.int64),
        pairs=np.stack([row, column], axis=1).astype(np.int64) - shift,
        iou=overlap / union,
        of_true=overlap / true_area[row],
        of_pred=overlap / pred_area[column],
    )


def _groups(
    pairs: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    whole: NDArray[np.int64],
    parts: NDArray[np.int64],
    *,
    by: int,
) -> list[tuple[int, list[int]]]:
    """Objects on side `by` of the chosen pairs that are in at least two of them."""
    pairs = pairs[chosen]
    found = []
    for position in np.flatnonzero(np.bincount(pairs[:, by], minlength=1) > 1):
        inside = np.sort(parts[pairs[pairs[:, by] == position, 1 - by]])
        found.append((int(whole[position]), inside.tolist()))
    return found
