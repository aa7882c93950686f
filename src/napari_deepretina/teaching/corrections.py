"""What a person made of the nuclei of an image, as far as it can be learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.document.changes import Index
from napari_deepretina.document.document import REVIEWED, Document
from napari_deepretina.errors import UserError
from napari_deepretina.evaluation import match
from napari_deepretina.instances import Instances
from napari_deepretina.instances.labels import LabelImage, bounding_boxes

SURE = 0.9
"""Score from which on a nucleus that nobody touched counts as one."""


@dataclass(frozen=True)
class Corrections:
    """Nuclei of one image, and what is known of each.

    Attributes
    ----------
    labels : (H, W) int32, the nuclei as they are now.
    right : ids that a person accepted, edited or drew.
    sure : ids that the network is sure of and that nobody touched; all others in `labels` are doubtful.
    wrong : (D, 4) float32 xyxy in pixels, boxes of detections that a person deleted.
    """

    labels: LabelImage
    right: NDArray[np.int64]
    sure: NDArray[np.int64]
    wrong: NDArray[np.float32]

    def __len__(self) -> int:
        """Corrections: nuclei that are right, and detections that are wrong."""
        return len(self.right) + len(self.wrong)

    def boxes_of(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, 4) xyxy of nuclei, ids rising."""
        known, boxes = bounding_boxes(self.labels)
        chosen: NDArray[np.float32] = boxes[np.isin(known, ids)].astype(np.float32)
        return chosen

    def within(self, window: tuple[slice, slice]) -> Corrections:
        """Those of a part of the image; what its border cuts is doubtful."""
        rows, columns = window
        top, left = rows.start, columns.start
        labels = np.ascontiguousarray(self.labels[window])
        cut = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        here = np.setdiff1d(np.unique(labels), cut)
        moved = self.wrong - np.array([left, top, left, top], np.float32)
        inside = (
            (moved >= 0).all(axis=1) & (moved[:, 2] <= labels.shape[1]) & (moved[:, 3] <= labels.shape[0])
        )
        return Corrections(
            labels, np.intersect1d(self.right, here), np.intersect1d(self.sure, here), moved[inside]
        )

    def without(self, numbers: Sequence[int]) -> Corrections:
        """All but some, which are doubtful then; nuclei that are right are counted first, by rising ids."""
        right, wrong = self._split(numbers)
        return replace(self, right=self.right[~right], wrong=self.wrong[~wrong])

    def only(self, numbers: Sequence[int]) -> Corrections:
        """Some of them; the others are doubtful."""
        right, wrong = self._split(numbers)
        return replace(self, right=self.right[right], wrong=self.wrong[wrong])

    def _split(self, numbers: Sequence[int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        chosen = np.isin(np.arange(len(self)), numbers)
        return chosen[: len(self.right)], chosen[len(self.right) :]


def of_document(document: Document, index: Index = ()) -> Corrections:
    """What a person made of a plane: accepted, edited and drawn nuclei are right, deleted ones wrong."""
    labels = np.array(document.labels[index])
    states = {label: document.nuclei[label] for label in np.unique(labels[labels > 0]).tolist()}
    right = [label for label, nucleus in sorted(states.items()) if nucleus.state in REVIEWED]
    sure = [i for i, n in states.items() if n.state == "found" and (n.score or 0) >= SURE]
    deleted = [label for label, nucleus in document.nuclei.items() if nucleus.state == "deleted"]
    wrong = np.zeros((0, 4), np.float32)
    if index in document.planes:
        plane = document.planes[index]
        wrong = plane.raw.boxes[np.isin(plane.id_of, deleted)]
    return Corrections(labels, np.array(right, np.int64), np.array(sure, np.int64), wrong)


def of_labels(labels: NDArray[Any], found: Instances, *, complete: bool = False) -> Corrections:
    """What a label image says of a network's answer.

    Nuclei that the network draws in just the same way are nobody's correction; the others are right. Where
    there are such nuclei, the image is the network's own, corrected, and detections missing from it were
    deleted; an image that was drawn from scratch says nothing of places without a label.

    Parameters
    ----------
    labels : (H, W) integer.
    found : the network's answer.
    complete : whether all labels are right and no nucleus is left out.

    Raises
    ------
    UserError
        If the sizes differ, or nothing differs.
    """
    if labels.shape != found.shape:
        raise UserError(
            f"the labels have shape {labels.shape}, the image {found.shape}: give labels of this very image"
        )
    labels = np.ascontiguousarray(labels, dtype=np.int32)
    theirs = found.to_labels()
    matched = match(labels, theirs)
    same = matched.pairs[matched.iou == 1]
    untouched = np.zeros(0, np.int64) if complete else matched.true_ids[same[:, 0]]
    scores = dict(zip(found.ids.tolist(), found.scores.tolist(), strict=True))
    sure = [int(matched.true_ids[t]) for t, p in same.tolist() if scores[int(matched.pred_ids[p])] >= SURE]
    missing = np.zeros(0, np.int64)
    if complete or len(untouched):
        met = np.unique(matched.pairs[matched.of_pred > 0.1][:, 1])
        missing = np.setdiff1d(matched.pred_ids, matched.pred_ids[met])
    wrong = found.boxes[np.isin(found.ids, missing)].astype(np.float32)
    right = np.setdiff1d(matched.true_ids, untouched)
    return Corrections(labels, right, np.setdiff1d(np.array(sure, np.int64), right), wrong)


def windows(
    corrections: Corrections, side: int, most: int
) -> Iterator[tuple[tuple[slice, slice], Corrections]]:
    """Parts of an image that hold its corrections, and theirs, each in one part only; the fullest first.

    Parameters
    ----------
    side : of a part, in pixels; images that are no longer are one part.
    most : parts that there are at most.
    """
    height, width = corrections.labels.shape
    for _ in range(most):
        if not len(corrections):
            return
        boxes = np.concatenate([corrections.boxes_of(corrections.right), corrections.wrong])
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        near = (np.abs(middles[:, None] - middles[None]) < 0.4 * side).all(axis=2)
        x, y = middles[near[near.sum(axis=1).argmax()]].mean(axis=0)
        left, top = (
            int(min(max(0, at - side / 2), max(0, long - side))) for at, long in ((x, width), (y, height))
        )
        window = slice(top, min(top + side, height)), slice(left, min(left + side, width))
        part = corrections.within(window)
        corner = np.array([left, top, left, top])
        inside = (boxes >= corner).all(axis=1) & (boxes <= corner + np.array([side] * 4)).all(axis=1)
        if not len(part):  # the border cuts what lies in the midst: it is longer than a part
            inside |= near[near.sum(axis=1).argmax()]
        yield window, part
        corrections = corrections.without(np.flatnonzero(inside).tolist())
