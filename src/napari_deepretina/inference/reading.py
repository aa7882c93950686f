"""Which of several readings of an image shows its nuclei, looked at with each, and the network for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.channels import as_channels, check_image, overview
from napari_deepretina.data.deconvolution import STAINS
from napari_deepretina.data.reading import Reading, read_plainly, read_stains, readings
from napari_deepretina.data.tissue import needs_specialist
from napari_deepretina.errors import UserError
from napari_deepretina.inference.plan import Plan, make_plan
from napari_deepretina.inference.predict import Whole, predict
from napari_deepretina.inference.settings import SegmentSettings
from napari_deepretina.inference.steps import Progress, Steps
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.rescoring import evidence_of
from napari_deepretina.model.weights import LoadedModel
from napari_deepretina.postprocess.nms import nms

LOOKING = "seeing how the image is to be read"
WHOLE_UP_TO = 0.35
"""Images of so many megapixels to the network are tried as a whole, others in windows."""
WINDOW, WINDOWS = 448, 3
"""Side of these windows in pixels of the network's input, and how many there are."""
MORE, MORE_BY = 1.25, 2.0
"""Another channel than the first one must show more nuclei by this factor, and by so many besides."""
DIM, FEWEST = 0.14, 3
"""Glare is left out where at least so many nuclei appear without it, and most of them are so dim beside it,
in units of the whole range. On validation images with glare painted in they had up to 0.10, without it 0.18
and more."""


def read_and_fitted(
    model: LoadedModel, image: Any, settings: SegmentSettings
) -> Steps[tuple[Reading, LoadedModel]]:
    """How an image is read, and the model for it: the specialist's, where there is one and it is asked."""
    info = model.info
    plan = make_plan(
        check_image(image), info.architecture, trained_diameter=info.diameter, diameter=settings.diameter
    )
    reading = yield from choose_reading(model, image, plan, settings)
    return reading, network_for(model, image, reading, settings)


def choose_reading(model: LoadedModel, image: Any, plan: Plan, settings: SegmentSettings) -> Steps[Reading]:
    """The reading of an image that the settings ask for, or in which most nuclei are found.

    Each reading is looked at with the network that would be taken for it.

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
    look = partial(_look, partial(network_for, model, image, settings=settings), parts, plan, settings)
    alike: dict[Any, list[Reading]] = defaultdict(list)
    for reading in offered:
        alike[reading.channels, reading.stains].append(reading)
    chosen = []
    for ways in alike.values():
        chosen.append((yield from _with_or_without_glare(ways, look)))
    if len(chosen) == 1:
        return chosen[0]
    totals = []
    for reading in chosen:
        total, _ = yield from look(reading, reading)
        totals.append(total)
    best = int(np.argmax(totals))
    return chosen[best if totals[best] > MORE * totals[0] + MORE_BY else 0]


def network_for(model: LoadedModel, image: Any, reading: Reading, settings: SegmentSettings) -> LoadedModel:
    """The model for an image read in some way: the specialist's, where there is one and it is asked."""
    if settings.specialist == "auto":
        return model.for_tissue(model.beside is not None and needs_specialist(image, reading))
    return model.for_tissue(settings.specialist == "always")


Look = Callable[[Reading, Reading], Steps[tuple[float, list[float]]]]


def _with_or_without_glare(ways: Sequence[Reading], look: Look) -> Steps[Reading]:
    """Of readings of the same channels: the first, unless what the others show is dim beside glare."""
    best, most = ways[0], 0.0
    for reading in ways[1:]:
        total, brightness = yield from look(reading, ways[0])
        if len(brightness) >= FEWEST and float(np.median(brightness)) < DIM and total > most:
            best, most = reading, total
    return best


def _look(
    network: Callable[[Reading], LoadedModel],
    parts: Sequence[NDArray[Any]],
    plan: Plan,
    settings: SegmentSettings,
    reading: Reading,
    beside: Reading,
) -> Steps[tuple[float, list[float]]]:
    """Sum of the sure scores in parts of an image, and the brightness of each nucleus in another reading."""
    model = network(reading)
    chosen = settings.postprocessing(model.info)
    limits = Limits(score=chosen.score, nms=0.3, detections=400, proposals=1000)
    total = 0.0
    brightness: list[float] = []
    for part in parts:
        yield Progress(0.0, LOOKING)
        answer = yield from _quiet(
            predict(model, part, limits=limits, scale=plan.scale, whole=Whole(reading))
        )
        raw = answer.raw[np.flatnonzero(answer.raw.scores >= chosen.score)]
        raw = raw[nms(raw.boxes, raw.scores, limits.nms)]
        total += float(raw.scores.sum())
        evidence = evidence_of(raw, beside(part))
        large = np.exp(2 * evidence[:, 2]) >= chosen.min_area  # a speck of dirt is no nucleus
        brightness += evidence[large, 3].tolist()
    return total, brightness


def offered_readings(image: Any, settings: SegmentSettings) -> list[Reading]:
    """Readings that the settings allow, the best guess first."""
    if settings.intensity in STAINS:
        return [replace(read_stains(image, settings.intensity), inverted=settings.invert)]
    if settings.intensity not in ("auto", "plain"):
        low, high = asked_range(settings.intensity)
        told = f"intensities {low:g} to {high:g} as asked for"
        return [Reading((low,), (high,), inverted=settings.invert, clipped=True, note=told)]
    ways = readings if settings.intensity == "auto" else _plainly
    if not settings.invert:
        with_stains = settings.specialist != "always"  # which knows tissue in its colours
        return [reading for reading in ways(image) if with_stains or not reading.stains]
    check_image(image)
    return [_turned(r) for r in ways(-as_channels(overview(image)).astype(np.float64))]


def _plainly(image: Any) -> list[Reading]:
    return [read_plainly(image)]


def _turned(reading: Reading) -> Reading:
    """The reading of an image whose negative is read so."""
    return replace(
        reading,
        low=tuple(-v for v in reading.high),
        high=tuple(-v for v in reading.low),
        blank=tuple((-most, -least) for least, most in reading.blank),
        inverted=True,
    )


def asked_range(text: str) -> tuple[float, float]:
    """The two values of ``LOW:HIGH``; UserError if they are none, or the wrong way round."""
    low, _, high = text.partition(":")
    try:
        first, last = float(low), float(high)
    except ValueError:
        first = last = float("nan")
    if not first < last:
        names = ", ".join(["auto", "plain", *STAINS])
        raise UserError(f"intensity {text!r}: give {names}, or two values such as 100:4000")
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
        yield Progress(0.0, LOOKING)
