"""Which of several readings of an image shows its nuclei: looked at with each, cheaply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.reading import Reading, overview, read_plainly, readings
from napari_deepretina.errors import UserError
from napari_deepretina.inference.plan import Plan
from napari_deepretina.inference.predict import Whole, predict
from napari_deepretina.inference.settings import SegmentSettings
from napari_deepretina.inference.steps import Progress, Steps
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.weights import LoadedModel

WHOLE_UP_TO = 0.35
"""Images of so many megapixels to the network are tried as a whole, others in windows."""
WINDOW, WINDOWS = 448, 3
"""Side of these windows in pixels of the network's input, and how many there are."""
MORE, MORE_BY = 1.25, 2.0
"""Another reading than the first one must show more nuclei by this factor, and by so many besides."""


def choose_reading(model: LoadedModel, image: Any, plan: Plan, settings: SegmentSettings) -> Steps[Reading]:
    """The reading of an image that the settings ask for, or in which most nuclei are found.

    Parameters
    ----------
    image : (H, W) or (H, W, C); large ones need not be arrays of numpy.
    plan : how it will be laid before the network.

    Raises
    ------
    UserError
        If the settings ask for an impossible range.
    """
    offered = offered_readings(image, settings)
    if len(offered) == 1:
        return offered[0]
    parts = [np.asarray(image[where]) for where in _windows(image, plan, offered)]
    sure = settings.postprocessing(model.info).score
    limits = Limits(score=sure, nms=0.3, detections=400, proposals=1000)
    found = []
    for reading in offered:
        total = 0.0
        for part in parts:
            yield Progress(0.0, "seeing how the image is to be read")
            steps = predict(model, part, limits=limits, scale=plan.scale, whole=Whole(reading))
            seen = yield from _quiet(steps)
            total += float(seen.raw.scores[seen.raw.scores >= sure].sum())
        found.append(total)
    best = int(np.argmax(found))
    return offered[best if found[best] > MORE * found[0] + MORE_BY else 0]


def offered_readings(image: Any, settings: SegmentSettings) -> list[Reading]:
    """Readings that the settings allow, the best guess first."""
    if settings.intensity == "auto":
        found = readings(image)
    elif settings.intensity == "plain":
        found = [read_plainly(image)]
    else:
        low, high = asked_range(settings.intensity)
        found = [Reading((low,), (high,), note=f"intensities {low:g} to {high:g} as asked for")]
    return [replace(r, inverted=True, fill=1 - r.fill) for r in found] if settings.invert else found


def asked_range(text: str) -> tuple[float, float]:
    """The two values of ``LOW:HIGH``; UserError if they are none, or the wrong way round."""
    low, _, high = text.partition(":")
    try:
        first, last = float(low), float(high)
    except ValueError:
        first = last = float("nan")
    if not first < last:
        raise UserError(f"intensity {text!r}: give auto, plain, or two values such as 100:4000")
    return first, last


def _windows(image: Any, plan: Plan, offered: Sequence[Reading]) -> list[tuple[slice, slice]]:
    """Parts in which something is to be seen in one of the readings: the liveliest, none twice."""
    height, width = image.shape[:2]
    if plan.megapixels <= WHOLE_UP_TO:
        return [(slice(0, height), slice(0, width))]
    side = max(32, round(WINDOW / plan.scale))
    rows, columns = (max(1, -(-n // side)) for n in (height, width))
    seen = overview(image)
    lively = np.zeros((rows, columns))
    for reading in offered:
        contrast = _contrasts(reading(seen).mean(axis=2), rows, columns)
        lively += contrast / max(1e-6, contrast.max())
    order = np.argsort(-lively, axis=None)[:WINDOWS]
    tops, lefts = ((np.arange(n) * size) // n for n, size in ((rows, height), (columns, width)))
    return [
        (slice(int(tops[r]), int(tops[r]) + side), slice(int(lefts[c]), int(lefts[c]) + side))
        for r, c in zip(*np.unravel_index(order, lively.shape), strict=True)
    ]


def _contrasts(grey: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float64]:
    """Standard deviation within each part of a grid."""
    parts = [np.array_split(band, columns, axis=1) for band in np.array_split(grey, rows, axis=0)]
    return np.array([[float(p.std()) if p.size else 0.0 for p in band] for band in parts])


def _quiet(steps: Steps[Any]) -> Steps[Any]:
    """The same without any share of the work done."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        yield Progress(0.0, "seeing how the image is to be read")
