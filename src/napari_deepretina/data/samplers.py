"""Which images a round of training goes through, and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.kinds import kind_of
from napari_deepretina.data.sample import Dataset

Sampler = Literal["each", "size", "nuclei", "kind"]


def round_of(dataset: Dataset, sampler: Sampler) -> NDArray[np.int64]:
    """Positions of the images in one round, copies included, in the data set's order.

    Parameters
    ----------
    dataset : read whole for the samplers that must know its images; ``weights`` of a joined data set
        multiply the copies of its parts.
    sampler : ``each`` takes every image once. ``size`` copies images so that every size comes about as
        often: as many copies as the commonest size has images, divided by those of the image's own, as
        the original's second step does. ``nuclei`` does the same for how many nuclei an image holds, in
        steps of doubling. ``kind`` copies images of rarer kinds (see `kinds.kind_of`), by the square root
        of how much rarer they are, for few images copied often would be learnt by heart.
    """
    positions = np.arange(len(dataset))
    weights = getattr(dataset, "weights", None)
    copies = np.ones(len(dataset), np.int64) if weights is None else np.asarray(weights, np.int64)
    if sampler != "each":
        more = balanced([_group(dataset, i, sampler) for i in positions.tolist()])
        copies = copies * (np.round(np.sqrt(more)).astype(np.int64) if sampler == "kind" else more)
    return np.repeat(positions, copies)


def balanced(groups: Sequence[Hashable]) -> NDArray[np.int64]:
    """Copies of each member that make all groups about equally large; at least one."""
    sizes = Counter(groups)
    most = max(sizes.values(), default=0)
    return np.array([most // sizes[group] for group in groups], np.int64)


def _group(dataset: Dataset, index: int, sampler: Sampler) -> Hashable:
    sample = dataset[index]
    if sampler == "kind":
        return kind_of(sample)
    labels = sample.labels
    if sampler == "size":
        return labels.shape
    count = len(np.unique(labels[labels > 0]))
    return int(np.log2(count)) if count else -1
