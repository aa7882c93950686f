"""Which detections of several views are the same nucleus, and which pixels enough views agree on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.instances import Instances, RawInstances
from napari_deepretina.postprocess.masks import frames_of, sample_masks, unbatched
from napari_deepretina.postprocess.pairs import close_pairs


def group_views(raw: RawInstances, merge_iou: float) -> NDArray[np.int64]:
    """Group detections of different views by their boxes.

    The best detection not yet in a group starts one, and takes from each other view the detection that
    overlaps it most, if that is at least `merge_iou`. The order of the views does not matter.

    Parameters
    ----------
    raw : highest score first, overlaps within a view thinned out already.

    Returns
    -------
    (N,) int64, for each detection the first one of its group.
    """
    pairs = close_pairs(raw.boxes, merge_iou)
    other = raw.views[pairs.first] != raw.views[pairs.second]
    first, second, iou = pairs.first[other], pairs.second[other], pairs.iou[other]
    # A leader comes before its followers, so only pairs (earlier, later) matter; best overlap first.
    order = np.lexsort((-iou, first))
    followers = second[order].tolist()
    starts = np.searchsorted(first[order], np.arange(len(raw) + 1)).tolist()
    views = raw.views.tolist()
    leader = [-1] * len(raw)
    for i in range(len(raw)):
        if leader[i] >= 0:
            continue
        leader[i] = i
        seen = {views[i]}
        for j in followers[starts[i] : starts[i + 1]]:
            if leader[j] < 0 and views[j] not in seen:
                leader[j] = i
                seen.add(views[j])
    return np.asarray(leader, np.int64)


def vote(
    raw: RawInstances, leader: NDArray[np.int64], *, votes: int, mask_threshold: float, dilation: int = 0
) -> Instances:
    """One object a group: the pixels that at least `votes` of its views hold for the nucleus.

    Parameters
    ----------
    raw : detections of at most 255 views.
    leader : from `group_views`.
    dilation : as in `place_masks`.

    Returns
    -------
    Instances
        They may overlap and be empty. Scores are means over the group, classes those of the best
        detection, votes the size of the group, sources its best detection's place in `raw`.
    """
    order = np.argsort(leader, kind="stable")
    leaders, starts, sizes = np.unique(leader[order], return_index=True, return_counts=True)
    enough = sizes >= votes
    order = order[np.repeat(enough, sizes)]
    leaders, sizes = leaders[enough], sizes[enough]
    if not len(leaders):
        return Instances.empty(raw.shape)
    starts = np.cumsum(sizes) - sizes
    boxes, cut = raw.boxes[order], np.float32(mask_threshold * 255)
    around = np.concatenate(
        [np.minimum.reduceat(boxes[:, :2], starts), np.maximum.reduceat(boxes[:, 2:], starts)], axis=1
    )
    frames = frames_of(around, raw.shape, max(0, dilation))
    group = np.repeat(np.arange(len(leaders)), sizes)
    masks: list[NDArray[np.bool_]] = [np.zeros((0, 0), bool)] * len(leaders)
    partial: dict[int, NDArray[np.uint8]] = {}
    for some, values in sample_masks(raw.masks[order], boxes, frames[group]):
        groups, begins = np.unique(group[some], return_index=True)
        counts = np.add.reduceat((values > cut).view(np.uint8), begins, axis=0, dtype=np.uint8)
        # A group may go on from the batch before: its votes so far wait there.
        if int(groups[0]) in partial:
            counts[0] += partial.pop(int(groups[0]))
        if (group[some[-1] + 1 :] == groups[-1]).any():
            partial[int(groups[-1])], groups, counts = counts[-1], groups[:-1], counts[:-1]
        placed = unbatched(counts >= votes, frames[groups], dilation, raw.shape)
        for g, mask in zip(groups.tolist(), placed, strict=True):
            masks[g] = mask
    return Instances(
        boxes=frames,
        masks=tuple(masks),
        scores=(np.add.reduceat(raw.scores[order], starts) / sizes).astype(np.float32),
        classes=raw.classes[leaders],
        shape=raw.shape,
        votes=sizes.astype(np.int32),
        sources=leaders,
    )
