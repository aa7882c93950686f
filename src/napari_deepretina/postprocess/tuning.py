"""Tuning with a person in the loop: ids that stay, and edits that no slider overwrites."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.instances import Instances, RawInstances
from napari_deepretina.instances.labels import LabelImage, sizes_of
from napari_deepretina.postprocess.pipeline import Postprocessor
from napari_deepretina.postprocess.settings import PostprocessSettings

HIGHEST = 2**31 - 2**20
"""New ids stay below, so that they never run out of int32."""


class TuneSession:
    """One image's raw detections, the labels made of them so far, and what a person did to those.

    An id belongs to a raw detection for as long as the session lives, so that a nucleus keeps its id,
    and with it its colour, while thresholds move. A nucleus whose pixels differ from what was written is
    *touched*; touched and accepted nuclei keep their pixels (a deleted one stays deleted) until they are
    released.

    Parameters
    ----------
    raw : detections, kept as they are.
    labels : (H, W) int32, the labels shown now.
    sources : (N,) for ids 1…N in `labels`, the place in `raw` of the detection behind each.
    """

    def __init__(self, raw: RawInstances, labels: LabelImage, sources: NDArray[np.int64]) -> None:
        self.raw = raw
        self.instances = Instances.empty(raw.shape)
        self.ids = np.zeros(0, np.int32)
        self.touched: set[int] = set()
        self.accepted: set[int] = set()
        self._postprocess = Postprocessor(raw)
        self._id_of = np.zeros(len(raw), np.int32)
        known = sources >= 0
        self._id_of[sources[known]] = np.flatnonzero(known) + 1
        self._next_id = max(len(sources), int(labels.max(initial=0))) + 1
        self._written = labels.copy()

    def look(self, current: LabelImage) -> None:
        """Find out which nuclei were touched since the labels were last written."""
        changed = current != self._written
        if changed.any():
            ids = np.union1d(current[changed], self._written[changed])
            self.touched |= set(ids[ids > 0].tolist())
            self._written = current.copy()

    def new_id(self, current: LabelImage) -> int:
        """An id that no nucleus has or will be given."""
        top = int(current.max(initial=0))
        if top > HIGHEST:  # somebody's own huge ids are passed by from below
            top = int(current[current <= HIGHEST].max(initial=0))
        self._next_id = max(self._next_id, top + 1) + 1
        return self._next_id - 1

    def release(self, label: int) -> None:
        """Give a nucleus back to the sliders."""
        self.touched.discard(label)
        self.accepted.discard(label)

    def retune(self, settings: PostprocessSettings, current: LabelImage) -> LabelImage:
        """Labels for other settings; touched and accepted nuclei stay as they are in `current`.

        Returns
        -------
        (H, W) int32, a new array. Other nuclei give way to kept ones where they meet, and are left out
        where that takes more than ``settings.max_lost`` of them.
        """
        self.look(current)
        instances = self._postprocess(settings)
        ids = self._ids_of(instances, current)
        kept = self._kept_ids()
        free = ~np.isin(ids, kept)
        self.instances, self.ids = instances[free], ids[free]
        labels = self._painted()
        if len(kept):
            self._lay_over(labels, current, kept, settings.max_lost)
        self._written = labels.copy()
        return labels

    def table(self, current: LabelImage) -> dict[str, NDArray[Any]]:
        """One row a nucleus of `current`, the most doubtful first.

        ``label``, ``confidence`` (score × share of the views that saw it), ``score``, ``votes``, ``area``
        (pixels), ``state`` (automatic, edited or accepted) and ``x``, ``y`` (centre, pixels). Nuclei that
        a person drew have score 1.
        """
        self.look(current)
        ids, areas = sizes_of(current)
        order = np.argsort(self.ids)
        nearest = np.searchsorted(self.ids[order], ids).clip(0, max(0, len(order) - 1))
        known = order[nearest] if len(order) else np.zeros(len(ids), np.int64)
        found = self.ids[known] == ids if len(order) else np.zeros(len(ids), bool)
        score, votes = np.ones(len(ids)), np.full(len(ids), self.raw.view_count)
        score[found], votes[found] = self.instances.scores[known[found]], self.instances.votes[known[found]]
        state = np.array(["automatic"] * len(ids), dtype=object)
        state[np.isin(ids, list(self.touched))] = "edited"
        state[np.isin(ids, list(self.accepted))] = "accepted"
        confidence = score * votes / self.raw.view_count
        y, x = _centres(current, areas, ids)
        columns = {
            "label": ids, "confidence": confidence, "score": score, "votes": votes, "area": areas,
            "state": state, "x": x, "y": y,
        }  # fmt: skip
        # what a person has looked at is not doubtful any more
        order = np.lexsort((confidence, state != "automatic"))
        return {name: column[order] for name, column in columns.items()}

    def _ids_of(self, instances: Instances, current: LabelImage) -> NDArray[np.int32]:
        ids = self._id_of[instances.sources]
        new = np.flatnonzero(ids == 0)
        if len(new):
            first = self.new_id(current)
            ids[new] = np.arange(first, first + len(new), dtype=np.int32)
            self._id_of[instances.sources[new]] = ids[new]
            self._next_id = first + len(new)
        return ids

    def _kept_ids(self) -> NDArray[np.int64]:
        return np.array(sorted(self.touched | self.accepted), np.int64)

    def _painted(self) -> LabelImage:
        to_id = np.concatenate([[0], self.ids]).astype(np.int32)
        labels: LabelImage = to_id[self.instances.to_labels()]
        return labels

    def _lay_over(
        self, labels: LabelImage, current: LabelImage, kept: NDArray[np.int64], max_lost: float
    ) -> None:
        """Kept nuclei over the new labels, which lose too much or give way; in place."""
        mask = np.isin(current, kept)
        covered = np.unique(labels[mask])
        for label in covered[covered > 0].tolist():
            place = int(np.flatnonzero(self.ids == label)[0])
            window, shape = next(iter(self.instances[place : place + 1]))
            lost = np.count_nonzero(mask[window] & shape)
            if lost > max_lost * np.count_nonzero(shape):
                labels[window][shape & (labels[window] == label)] = 0
        labels[mask] = current[mask]


def _centres(
    current: LabelImage, areas: NDArray[np.int64], ids: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(y, x) centres of mass of some ids."""
    rows, columns = np.nonzero(current)
    place = np.searchsorted(ids, current[rows, columns])
    y, x = (np.bincount(place, weights=axis, minlength=len(ids)) / areas for axis in (rows, columns))
    return y, x
