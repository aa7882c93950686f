"""Which detections of several views are the same nucleus, and which pixels enough views agree on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.instances import Instances, RawInstances
from napari_deepretina.postprocess.masks import frames_of, sample_masks, unbatched
from napari_deepretina.postprocess.pairs import Pairs, close_pairs


def view_pairs(raw: RawInstances, merge_iou: float) -> Pairs:
    """Pairs of detections of different views that may be the same object, ready for `group_views`."""
    pairs = close_pairs(raw.boxes, merge_iou)
    other = raw.views[pairs.first] != raw.views[pairs.second]
    other &= raw.classes[pairs.first] == raw.classes[pairs.second]
    first, second, iou = pairs.first[other], pairs.second[other], pairs.iou[other]
    order = np.lexsort((-iou, first))
    return Pairs(first[order], second[order], iou[order])


def group_views(raw: RawInstances, pairs: Pairs) -> NDArray[np.int64]:
    """Group detections of different views by their boxes.

    The best detection not yet in a group starts one, and takes from each other view the detection that
    overlaps it most, of those in `pairs`. The order of the views does not matter.

    Parameters
    ----------
    raw : highest score first, overlaps within a view thinned out already.
    pairs : from `view_pairs`.

    Returns
    -------
    (N,) int64, for each detection the first one of its group.
    """
    # A leader comes before its followers, so pairs (earlier, later) are all there are.
    followers = pairs.second.tolist()
    starts = np.searchsorted(pairs.first, np.arange(len(raw) + 1)).tolist()
    views = raw.views.tolist()
    leader = [-1] * len(raw)
    for i in range(len(raw)):
        if leader[i] >= 0:
            continue
        leader[i] = i
        if starts[i] == starts[i + 1]:
            continue
        seen = {views[i]}
        for j in followers[starts[i] : starts[i + 1]]:
            if leader[j] < 0 and views[j] not in seen:
                leader[j] = i
                seen.add(views[j])
    return np.asarray(leader, np.int64)


Placed = tuple[NDArray[np.int64], NDArray[np.bool_]]
"""Frame and mask of one nucleus."""


def vote(
    raw: RawInstances,
    leader: NDArray[np.int64],
    *,
    votes: int,
    mask_threshold: float,
    dilation: int = 0,
    known: dict[bytes, Placed] | None = None,
    names: NDArray[np.int64] | None = None,
) -> tuple[Instances, dict[bytes, Placed]]:
    """One object a group: the pixels that at least `votes` of its views hold for the nucleus.

    Parameters
    ----------
    raw : detections of at most 255 views.
    leader : from `group_views`.
    dilation : as in `place_masks`.
    known : what a call with the same votes, threshold and dilation answered; groups of the same members
        are taken from it.
    names : (N,) what members are called in `known`; by default their places in `raw`.

    Returns
    -------
    instances : they may overlap and be empty. Scores are means over the group, classes those of the best
        detection, votes the size of the group, sources its best detection's place in `raw`.
    known : for the next call.
    """
    order = np.argsort(leader, kind="stable")
    leaders, sizes = np.unique(leader, return_counts=True)
    enough = sizes >= votes
    order = order[np.repeat(enough, sizes)]
    leaders, sizes = leaders[enough], sizes[enough]
    if not len(leaders):
        return Instances.empty(raw.shape), {}
    starts = np.cumsum(sizes) - sizes
    members = (order if names is None else names[order]).astype(np.int64)
    keys = [members[a:b].tobytes() for a, b in zip(starts.tolist(), (starts + sizes).tolist(), strict=True)]
    known = known or {}
    new = np.array([key not in known for key in keys])
    fresh = order[np.repeat(new, sizes)]
    placed = _voted(raw[fresh], sizes[new], votes, mask_threshold, dilation)
    answered = {key: known[key] for key in keys if key in known}
    answered |= dict(zip((k for k, n in zip(keys, new.tolist(), strict=True) if n), placed, strict=True))
    instances = Instances(
        boxes=np.stack([answered[key][0] for key in keys]),
        masks=tuple(answered[key][1] for key in keys),
        scores=(np.add.reduceat(raw.scores[order], starts) / sizes).astype(np.float32),
        classes=raw.classes[leaders],
        shape=raw.shape,
        votes=sizes.astype(np.int32),
        sources=leaders,
    )
    return instances, answered


def _voted(
    raw: RawInstances, sizes: NDArray[np.int64], votes: int, mask_threshold: float, dilation: int
) -> list[Placed]:
    """Frame and mask of each group; `raw` holds one group after the other, of the sizes given."""
    if not len(sizes):
        return []
    starts = np.cumsum(sizes) - sizes
    cut = np.float32(mask_threshold * 255)
    low, high = raw.boxes[:, :2], raw.boxes[:, 2:]
    around = np.concatenate([np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)], axis=1)
    frames = frames_of(around, raw.shape, max(0, dilation))
    group = np.repeat(np.arange(len(sizes)), sizes)
    masks: list[NDArray[np.bool_]] = [np.zeros((0, 0), bool)] * len(sizes)
    partial: dict[int, NDArray[np.uint8]] = {}
    for some, values in sample_masks(raw.masks, raw.boxes, frames[group], fading=raw.fading):
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
    return list(zip(frames, masks, strict=True))
