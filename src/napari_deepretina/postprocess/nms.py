"""Greedy non-maximum suppression on boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.postprocess.pairs import Pairs, overlapping_pairs


def nms(boxes: NDArray[np.float32], scores: NDArray[np.float32], iou_threshold: float) -> NDArray[np.int64]:
    """Indices of the boxes kept, highest score first.

    Parameters
    ----------
    boxes : (N, 4) xyxy.
    scores : (N,); equal scores keep their order.
    iou_threshold : a box goes if its IoU with a kept one is strictly above this. A box without
        area overlaps nothing.
    """
    alive = survivors(overlapping_pairs(boxes).above(iou_threshold), scores)
    order = np.argsort(-scores, kind="stable")
    return order[alive[order]]


def survivors(pairs: Pairs, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which boxes greedy suppression keeps, given the pairs that exclude each other.

    All boxes without a better rival are kept at once and theirs go, until nothing changes: the same
    answer as one by one from the best down, in a few passes over the pairs.

    Parameters
    ----------
    scores : (N,); of equal ones the first is better.

    Returns
    -------
    (N,) bool.
    """
    alive = np.ones(len(scores), bool)
    # first < second, so on equal scores the first one wins
    first_wins = scores[pairs.first] >= scores[pairs.second]
    winner = np.where(first_wins, pairs.first, pairs.second)
    loser = np.where(first_wins, pairs.second, pairs.first)
    while True:
        open_pairs = alive[winner] & alive[loser]
        winner, loser = winner[open_pairs], loser[open_pairs]
        if not len(winner):
            return alive
        beaten = np.zeros(len(alive), bool)
        beaten[loser] = True
        alive[loser[~beaten[winner]]] = False
