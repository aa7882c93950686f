"""What a person can try when a run found few nuclei, or none."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_deepretina.postprocess.nms import nms

FEW = 5
"""Fewer nuclei than these in an image look like a failure."""
MOST_LOOKED_AT = 20_000
LOWER = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Scores that may be proposed."""


def lower_score(result: Any) -> tuple[float, int] | None:
    """A lower score at which far more nuclei would be there: (score, about how many); None if there is none.

    Parameters
    ----------
    result : a `Segmentation` whose raw detections were kept.
    """
    prediction = getattr(result, "prediction", None)
    if prediction is None or len(prediction.raw) > MOST_LOOKED_AT:
        return None
    raw = prediction.raw[np.flatnonzero(prediction.raw.views == 0)]
    kept = np.sort(raw.scores[nms(raw.boxes, raw.scores, result.settings.nms)])
    for score in (s for s in LOWER if s < result.settings.score - 0.04):
        count = int(len(kept) - np.searchsorted(kept, score))
        if count >= max(2 * result.count, result.count + 3):
            return score, count
    return None


def is_few(result: Any, lower: tuple[float, int] | None) -> bool:
    """Whether what a run found looks like a failure."""
    return bool(result.count < FEW or lower is not None)
