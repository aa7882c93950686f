"""Images too large for one pass through the network: tiles with overlap, nuclei on seams whole and once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.normalise import intensity_range
from napari_deepretina.inference.plan import Plan, make_plan
from napari_deepretina.inference.predict import Prediction, predict
from napari_deepretina.inference.steps import Progress, Steps
from napari_deepretina.inference.views import View
from napari_deepretina.instances import RawInstances
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.weights import LoadedModel

MARGIN = 128
"""Pixels of the network's input around a tile that are looked at as well: more than a nucleus is wide."""
NEAR = 12
"""A nucleus whose centre lies so near beyond a tile's edge is kept from both sides, until thinning."""
TILED_FROM = 1.5
"""Images of more than this many tiles' area are cut into tiles."""
EMPTY = 0.06
"""Tiles whose normalised, smoothed values differ by less than this hold nothing."""


@dataclass(frozen=True)
class Tile:
    """A part of an image: (y0, x0, y1, x1), exclusive, of what it answers for and of what is looked at."""

    core: tuple[int, int, int, int]
    window: tuple[int, int, int, int]


def tiles_of(shape: tuple[int, int], side: int, margin: int, origin: tuple[int, int] = (0, 0)) -> list[Tile]:
    """Cut an image into tiles, row by row.

    Parameters
    ----------
    shape : (height, width).
    side : of the tiles' cores at most, in pixels of the image; without an origin all get about the same.
    margin : pixels looked at around a core, where the image has them.
    origin : (y, x) that the grid is moved by, 0…side - 1.
    """
    cuts = []
    for extent, start in zip(shape, origin, strict=True):
        if start:
            inner = list(range(start % side or side, extent, side))
        else:
            inner = np.linspace(0, extent, -(-extent // side) + 1).round().astype(int).tolist()[1:-1]
        cuts.append([0, *inner, extent])
    return [
        Tile(
            (y0, x0, y1, x1),
            (
                max(0, y0 - margin),
                max(0, x0 - margin),
                min(shape[0], y1 + margin),
                min(shape[1], x1 + margin),
            ),
        )
        for y0, y1 in zip(cuts[0], cuts[0][1:], strict=False)
        for x0, x1 in zip(cuts[1], cuts[1][1:], strict=False)
    ]


def needs_tiles(plan: Plan, side: int) -> bool:
    """Whether an image with this plan is cut into tiles of `side` pixels of the network's input."""
    return plan.megapixels * 1e6 > TILED_FROM * (side + 2 * MARGIN) ** 2


def predict_tiled(
    model: LoadedModel,
    image: Any,
    *,
    side: int,
    diameter: float | None = None,
    limits: Limits | None = None,
    views: Sequence[View] = (View(),),
    channel_shift_seed: int | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Steps[Prediction]:
    """As `predict`, tile by tile: the whole image is never in memory unless it was.

    Scale and intensity range are those of the whole image, so that a tile looks as it would in it.

    Parameters
    ----------
    image : (H, W) or (H, W, C), anything with ``shape`` and ``dtype`` that can be cut: numpy, dask, zarr.
    side : of a tile in pixels of the network's input; memory grows with its square.
    origin : (y, x) in pixels of the image that the grid is moved by.

    Yields
    ------
    Progress
        ``partial`` is the `Prediction` from the tiles done so far.

    Returns
    -------
    Prediction, ``raw.tiles`` telling the tile of each detection. Neighbours' answers for a nucleus on a seam
    are still in it: thinning by overlap, which post-processing does, leaves the surer one.
    """
    shape = (int(image.shape[0]), int(image.shape[1]))
    limits = limits or Limits()
    plan = make_plan(shape, model.info.architecture, trained_diameter=model.info.diameter, diameter=diameter)
    zoom = plan.scaled[0] / shape[0]
    tiles = tiles_of(shape, max(16, round(side / zoom)), round(MARGIN / zoom), origin)
    yield Progress(0.0, "looking over the image")
    intensity = intensity_range(image)
    found: list[RawInstances] = []
    notes: list[str] = []
    device, empty = model.device, 0
    for number, tile in enumerate(tiles):
        y0, x0, y1, x1 = tile.window
        pixels = np.asarray(image[y0:y1, x0:x1])
        if is_empty(pixels, intensity):
            empty += 1
            continue
        steps = predict(
            model, pixels, limits=limits, views=views, channel_shift_seed=channel_shift_seed,
            intensity=intensity, scale=plan.scale,
        )  # fmt: skip
        answer = yield from _told(steps, number, len(tiles), _joined(found, shape, plan, device, notes))
        device = answer.device
        notes += [n for n in answer.notes if n not in notes]
        found.append(_kept(answer.raw, tile, number, shape, NEAR / zoom))
    notes.append(f"{len(tiles)} tiles" + (f", {empty} of them empty" if empty else ""))
    done = _joined(found, shape, plan, device, notes)
    assert done is not None
    fingerprint = plan.fingerprint(model.sha256, side, origin, *map(repr, views), channel_shift_seed)
    return replace(done, raw=replace(done.raw, fingerprint=fingerprint))


def is_empty(pixels: NDArray[Any], intensity: tuple[float, float]) -> bool:
    """Whether nothing stands out in a tile: means of 4 × 4 pixels, in units of the image's range."""
    low, high = intensity
    if not high > low:
        return True
    values = pixels.astype(np.float32).reshape(*pixels.shape[:2], -1)
    rows, columns = (max(1, n // 4) for n in pixels.shape[:2])
    cut = values[: rows * 4, : columns * 4]
    blocks = cut.reshape(rows, -1, columns, cut.shape[1] // columns, cut.shape[2]).mean(axis=(1, 3))
    if not np.isfinite(blocks).all():
        return False
    spread = np.percentile(blocks, 99.9, axis=(0, 1)) - np.percentile(blocks, 5, axis=(0, 1))
    return bool(spread.max() < EMPTY * (high - low))


def _told(steps: Steps[Prediction], number: int, count: int, partial: Prediction | None) -> Steps[Prediction]:
    """Steps of one tile as a part of all of them."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            answer: Prediction = end.value
            return answer
        yield Progress((number + step.done) / count, f"tile {number + 1} of {count}", partial, grows=True)


def _kept(raw: RawInstances, tile: Tile, number: int, shape: tuple[int, int], near: float) -> RawInstances:
    """Detections that the tile answers for, in pixels of the whole image."""
    y0, x0 = tile.window[:2]
    boxes = raw.boxes + np.array([x0, y0, x0, y0], np.float32)
    centre_x, centre_y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    top, left, bottom, right = tile.core
    mine = (
        (centre_y >= top - near) & (centre_y < bottom + near)
        & (centre_x >= left - near) & (centre_x < right + near)
    )  # fmt: skip
    moved = replace(raw, boxes=boxes, tiles=np.full(len(raw), number, np.int32), shape=shape)
    return moved[np.flatnonzero(mine)]


def _joined(
    found: list[RawInstances], shape: tuple[int, int], plan: Plan, device: Any, notes: list[str]
) -> Prediction | None:
    """All tiles so far as one prediction, to be thinned again: seams hold nuclei twice."""
    raw = RawInstances.concatenate(found) if found else RawInstances.empty(shape)
    return Prediction(replace(raw, thinned=1.0), plan, device, list(notes))
