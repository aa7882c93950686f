"""Settings that score best on an image whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.evaluation.matching import match
from napari_deepretina.evaluation.scores import score_image
from napari_deepretina.instances import Instances
from napari_deepretina.postprocess import PostprocessSettings

GRID: dict[str, Sequence[Any]] = {
    "score": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    "mask_threshold": (0.3, 0.4, 0.5, 0.6, 0.7),
    "dilation": (-1, 0, 1, 2),
    "nms": (0.2, 0.3, 0.4, 0.5),
}
"""What `sweep` tries, by setting."""
VIEWS_GRID: dict[str, Sequence[Any]] = {"votes": tuple(range(1, 9)), "merge_iou": (0.4, 0.5, 0.6, 0.7)}
"""Tried as well where there are several views."""


def sweep(
    postprocess: Callable[[PostprocessSettings], Instances],
    truth: NDArray[np.integer],
    start: PostprocessSettings,
    grid: Mapping[str, Sequence[Any]] = GRID,
    *,
    rounds: int = 2,
) -> Generator[float, None, tuple[PostprocessSettings, float]]:
    """Change one setting after the other to what scores best, until no change helps.

    Yields
    ------
    float
        Share of the work done, 0…1, at most.

    Returns
    -------
    The best settings found and their competition score; the start, where nothing is better.
    """
    tried: dict[PostprocessSettings, float] = {}

    def score(settings: PostprocessSettings) -> float:
        if settings not in tried:
            tried[settings] = score_image(match(truth, postprocess(settings).to_labels())).dsb_score
        return tried[settings]

    best, total = start, rounds * sum(len(values) for values in grid.values())
    done, before = 0, None
    for _ in range(rounds):
        if best == before:
            break
        before = best
        for name, values in grid.items():
            for value in values:
                candidate = best.model_copy(update={name: value})
                best = candidate if score(candidate) > score(best) else best
                done += 1
                yield done / total
    return best, score(best)
