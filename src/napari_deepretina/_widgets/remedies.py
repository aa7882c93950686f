"""What a person can try when a run found few nuclei, or none."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_deepretina.errors import UserError
from napari_deepretina.model.weights import find, read_info
from napari_deepretina.postprocess.nms import nms

FEW, SOME, LITTLE = 5, 50, 0.03
"""Fewer nuclei than these in an image look like a failure, and in stained tissue, which is made of cells,
fewer than some that cover a smaller share of it: a slide may be empty for the most part."""
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


def half_the_size(result: Any) -> int | None:
    """Diameter to look with for nuclei too small to be found, in pixels.

    Such nuclei are half as large as those that the network knows, at the scale at which it looked. None where
    a diameter was given, or where the image was looked at enlarged already.
    """
    prediction = getattr(result, "prediction", None)
    if prediction is None or result.settings.diameter is not None:
        return None
    try:
        info = read_info(find(result.settings.weights))
    except UserError:  # the file is gone
        return None
    plan = prediction.plan
    if plan.scale > info.architecture.usual_scale(plan.shape):
        return None
    return round(info.diameter / plan.scale / 2)


def is_few(result: Any, lower: tuple[float, int] | None) -> bool:
    """Whether what a run found looks like a failure."""
    return bool(result.count < FEW or lower is not None or _leaves_tissue_empty(result))


def _leaves_tissue_empty(result: Any) -> bool:
    """Whether a specialist for tissue found little in an image that it looked at with no diameter given."""
    prediction, asked = getattr(result, "prediction", None), result.settings
    if "specialist" not in result.weights or prediction is None or result.count >= SOME:
        return False
    if asked.diameter is not None or asked.regions is not None:
        return False
    height, width = prediction.plan.shape
    return bool(result.instances.areas.sum() < LITTLE * height * width)
