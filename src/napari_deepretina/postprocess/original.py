"""Deep Retina's own post-processing, quirks included, on masks that stay inside their boxes.

What it really does was read off the outputs and the public code of the original (see the docstrings);
none of it needs an array of objects × pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_deepretina.instances import Instances
from napari_deepretina.postprocess.masks import grow

DENSE_PAIRS = 16_000_000


def priorities(keys: NDArray[np.generic]) -> NDArray[np.int64]:
    """The original's priority of each mask: the highest number gets the pixel.

    It was meant as a rank but is the *argument* of a descending sort plus one. With scores that fall
    from the first to the last mask, as a network gives them, the lowest score wins every overlap.
    """
    return np.argsort(keys, kind="stable")[::-1].astype(np.int64) + 1


def remove_duplicates(instances: Instances, *, threshold: float = 0.7, by_score: bool = False) -> Instances:
    """Give each pixel to one mask, by `priorities` of the areas or of the scores.

    Masks keep their places; those that lose too much become empty. With areas, that is more than
    `threshold` of their pixels; with scores, the original compares the score itself with the pixels
    left, so only masks that lose everything go.
    """
    areas = instances.areas
    order = priorities(instances.scores if by_score else areas)
    top = np.zeros(instances.shape, np.int64)
    for place in np.argsort(order, kind="stable").tolist():
        x0, y0, x1, y1 = instances.boxes[place].tolist()
        top[y0:y1, x0:x1][instances.masks[place]] = order[place]
    masks = [mask & (top[window] == order[i]) for i, (window, mask) in enumerate(instances)]
    if not by_score:
        for i, mask in enumerate(masks):
            if areas[i] and (areas[i] - np.count_nonzero(mask)) / areas[i] > threshold:
                masks[i] = np.zeros_like(mask)
    return instances.with_masks(instances.boxes, masks)


def finish(
    instances: Instances, *, dilation: int = 0, threshold: float = 0.7, by_score: bool = False
) -> Instances:
    """Dilate each mask by the cross, remove duplicates, leave out what is empty: what gets encoded."""
    if dilation:
        instances = dilated(instances, dilation)
    single = remove_duplicates(instances, threshold=threshold, by_score=by_score)
    return single[single.areas > 0]


def dilated(instances: Instances, times: int) -> Instances:
    """Each mask grown (or shrunk, below 0) by the 3×3 cross, its frame with it, within the image."""
    if not times:
        return instances
    height, width = instances.shape
    margin = max(0, times) * np.array([-1, -1, 1, 1])
    frames = np.clip(instances.boxes + margin, 0, (width, height, width, height))
    masks = []
    for old, new, mask in zip(instances.boxes.tolist(), frames.tolist(), instances.masks, strict=True):
        before, after = (old[0] - new[0], old[1] - new[1]), (new[2] - old[2], new[3] - old[3])
        padded = np.pad(mask, ((before[1], after[1]), (before[0], after[0])))
        masks.append(grow(padded[None], np.array([new]), times, instances.shape)[0])
    return instances.with_masks(frames, masks)


def merge_views(views: Sequence[Instances], *, votes_above: int = 4, merge_iou: float = 0.6) -> Instances:
    """Merge the objects of several views one view after the other, and keep pixels with enough votes.

    Parameters
    ----------
    views : objects of each view, in the image's own pixels; their order matters.
    votes_above : pixels with more votes than this stay; at least one view must be given.
    merge_iou : an object of the merged set and one of the next view at this IoU or more are the same.

    Returns
    -------
    Instances
        In the original's order, overlapping still: `finish` comes next. Scores, classes and sources
        are those of the first view that saw the object, votes the number of views that did.
    """
    found = [view for view in views if len(view)]
    if not found:
        return Instances.empty(views[0].shape)
    merged = found[0]
    counts = [mask.astype(np.uint16) for mask in merged.masks]
    for view in found[1:]:
        merged, counts = _merged(merged, counts, remove_duplicates(view), merge_iou)
    merged = merged.with_masks(merged.boxes, [c > votes_above for c in counts])
    return merged[merged.areas > 0]


def _merged(
    merged: Instances, counts: list[NDArray[np.uint16]], view: Instances, merge_iou: float
) -> tuple[Instances, list[NDArray[np.uint16]]]:
    """One step of `merge_views`; the merged objects' masks follow their counts."""
    single = remove_duplicates(merged.with_masks(merged.boxes, [c > 0 for c in counts]))
    alive = np.flatnonzero(single.areas > 0)
    merged, single = merged[alive], single[alive]
    counts = [counts[i] for i in alive]
    match, rest = _matches(single, view, merge_iou)
    boxes, votes = merged.boxes.copy(), merged.votes.copy()
    for i in np.flatnonzero(match >= 0).tolist():
        j = int(match[i])
        boxes[i], counts[i] = _sum(merged.boxes[i], counts[i], view.boxes[j], view.masks[j])
        votes[i] += view.votes[j]
    new = view[rest]
    joined = Instances(
        boxes=np.concatenate([boxes, new.boxes]),
        masks=tuple(c > 0 for c in counts) + new.masks,
        scores=np.concatenate([merged.scores, new.scores]),
        classes=np.concatenate([merged.classes, new.classes]),
        shape=merged.shape,
        votes=np.concatenate([votes, new.votes]),
        sources=np.concatenate([merged.sources, new.sources]),
    )
    return joined, counts + [mask.astype(np.uint16) for mask in new.masks]


def _sum(
    frame: NDArray[np.int64], counts: NDArray[np.uint16], other: NDArray[np.int64], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Votes of an object and one more view, in a frame around both."""
    joint = np.concatenate([np.minimum(frame[:2], other[:2]), np.maximum(frame[2:], other[2:])])
    total = np.zeros((joint[3] - joint[1], joint[2] - joint[0]), np.uint16)
    for (x0, y0, x1, y1), part in ((frame, counts), (other, mask)):
        total[y0 - joint[1] : y1 - joint[1], x0 - joint[0] : x1 - joint[0]] += part
    return joint, total


def _matches(
    first: Instances, second: Instances, merge_iou: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each first object its match in the second set or -1, and the second ones left to append.

    Both sets are disjoint. The original compares histograms with as many bins as there are labels in
    use: where the second set has an empty mask before a full one, its bins no longer follow its labels,
    and positions of bins are then taken for positions of masks. `_bins` repeats that.
    """
    bins = _bins(second)
    count = int(bins.max(initial=0)) + 1
    shared = _shared_pixels(first, second, bins, count)
    background = first.shape[0] * first.shape[1] - int(second.areas.sum())
    areas = np.bincount(bins, np.concatenate([[background], second.areas]), count)
    # Pixels of the first object that no second one covers lie in the background's bin.
    shared[:, bins[0]] += first.areas - shared.sum(axis=1)
    with np.errstate(invalid="ignore"):
        iou = shared / (first.areas[:, None] + areas[None] - shared)
    best = np.argmax(iou, axis=1) if len(first) else np.zeros(0, np.int64)
    match = np.where(iou[np.arange(len(first)), best] < merge_iou, -1, best - 1)
    return match, np.setdiff1d(np.arange(count - 1), match)


def _bins(second: Instances) -> NDArray[np.int64]:
    """(N + 1,) histogram bin of background (label 0) and of labels 1…N, as the original lays them."""
    labels = np.arange(len(second) + 1)
    used = np.concatenate([[True], second.areas > 0])
    top, number = labels[used].max(), np.count_nonzero(used)
    edges = np.linspace(0, top, number + 1)
    bins = np.clip(np.searchsorted(edges, labels, side="right") - 1, 0, number - 1)
    return bins.astype(np.int64)


def _shared_pixels(
    first: Instances, second: Instances, bins: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """(N, count) pixels that each first object shares with the second objects of each bin."""
    ones, twos = first.to_labels(), second.to_labels()
    both = (ones > 0) & (twos > 0)
    rows, columns = ones[both] - 1, bins[twos[both]]
    if len(first) * count <= DENSE_PAIRS:
        flat = np.bincount(rows * np.int64(count) + columns, minlength=len(first) * count)
        return flat.reshape(len(first), count).astype(np.float64)
    weights = np.ones(len(rows), np.float64)
    shared = sparse.coo_matrix((weights, (rows, columns)), shape=(len(first), count))
    return np.asarray(shared.toarray())
