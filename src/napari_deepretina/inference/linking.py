"""Nuclei of one plane found again in the next: 3D objects along z, tracks along time."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.evaluation.matching import match
from napari_deepretina.instances.labels import LabelImage


class Linker:
    """Gives ids to the nuclei of planes that come one after the other.

    Nuclei of two planes are the same object if they overlap by an IoU of at least `iou`; each has at most
    one partner, and pairs are made from the best overlap down. An object that is out of sight for up to
    `gap` planes is known again. Ids are never used twice. Memory holds ``gap + 1`` planes.
    """

    def __init__(self, iou: float, gap: int = 0) -> None:
        self._iou = iou
        self._seen: deque[LabelImage] = deque(maxlen=gap + 1)
        self._used = 0

    def restart(self) -> None:
        """Nuclei of planes to come have nothing to do with those before."""
        self._seen.clear()

    def add(self, labels: LabelImage) -> NDArray[np.int32]:
        """Ids of a plane's nuclei 1…N.

        Parameters
        ----------
        labels : (H, W) int32 with ids 1…N, or fewer of them, as `Instances.to_labels` paints them.

        Returns
        -------
        (N,) int32, N being the largest id in it.
        """
        count = int(labels.max(initial=0))
        ids = np.zeros(count, np.int32)
        for earlier in reversed(self._seen):
            self._continue(earlier, labels, ids)
        new = ids == 0
        ids[new] = self._used + 1 + np.arange(np.count_nonzero(new))
        self._used += int(np.count_nonzero(new))
        self._seen.append(np.concatenate([[0], ids]).astype(np.int32)[labels])
        return ids

    def _continue(self, earlier: LabelImage, labels: LabelImage, ids: NDArray[np.int32]) -> None:
        """Fill in the ids of those that an earlier plane holds."""
        found = match(earlier, labels)
        enough = np.flatnonzero(found.iou >= self._iou)
        taken = set(ids[ids > 0].tolist())
        for pair in enough[np.argsort(-found.iou[enough], kind="stable")]:
            before = int(found.true_ids[found.pairs[pair, 0]])
            now = int(found.pred_ids[found.pairs[pair, 1]]) - 1
            if not ids[now] and before not in taken:
                ids[now] = before
                taken.add(before)
