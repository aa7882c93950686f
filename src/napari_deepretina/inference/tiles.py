"""Images too large for one pass through the network: tiles with overlap, nuclei on seams whole and once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from napari_deepretina.data.channels import overview
from napari_deepretina.data.reading import Reading, readings
from napari_deepretina.data.regions import Region, inside_any
from napari_deepretina.errors import UserError
from napari_deepretina.inference.engine import Engine
from napari_deepretina.inference.plan import Plan, make_plan
from napari_deepretina.inference.predict import Prediction, Whole, predict
from napari_deepretina.inference.steps import Progress, Steps, drain
from napari_deepretina.inference.tile_store import TileStore
from napari_deepretina.instances import RawInstances
from napari_deepretina.model.rescoring import Fellows, fellows_of
from napari_deepretina.model.weights import LoadedModel

T = TypeVar("T")

MARGIN = 128
"""Pixels of the network's input around a tile that are looked at as well: more than a nucleus is wide."""
NEAR = 12
"""A nucleus whose centre lies so near beyond a tile's edge is kept from both sides, until thinning."""
TILED_FROM = 1.5
"""Images of more than this many tiles' area are cut into tiles."""
MOST_LOOKED_AT = 4
"""Tiles that tell what an image's nuclei are like."""
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
    origin: tuple[int, int] = (0, 0),
    engine: Engine | None = None,
    keep: Path | None = None,
    adapt: Callable[[list[RawInstances], Plan], float | None] | None = None,
    regions: Sequence[Region] = (),
    **options: Any,
) -> Steps[Prediction]:
    """As `predict`, tile by tile: the whole image is never in memory unless it was.

    Scale, intensity range and what nuclei are like are those of the whole image, so that a tile looks as it
    would in it.

    Parameters
    ----------
    image : (H, W) or (H, W, C), anything with ``shape`` and ``dtype`` that can be cut: numpy, dask, zarr.
    side : of a tile in pixels of the network's input; memory grows with its square.
    origin : (y, x) in pixels of the image that the grid is moved by.
    engine : does several tiles at a time; by default one after the other is done here.
    keep : folder for tiles that are done: the same call goes on where an earlier one was interrupted.
    adapt : given what a few tiles hold, tells the scale for all of them, or None to leave it.
    regions : look only where these are, and keep only detections whose middle lies in one of them.
    **options : of `predict`.

    Yields
    ------
    Progress
        ``partial`` is a function that gives the `Prediction` from the tiles done so far; ``patch`` gives
        (Tile, its detections) once for each.

    Returns
    -------
    Prediction, ``raw.tiles`` telling the tile of each detection. Neighbours' answers for a nucleus on a seam
    are still in it: thinning by overlap, which post-processing does, leaves the surer one.
    """
    yield Progress(0.0, "looking over the image")
    image_digest, reading = _looked_over(image)
    options["whole"] = options.get("whole") or Whole(reading)
    diameter = options.pop("diameter", None)
    cut = partial(_cut, side=side, origin=origin, regions=regions)
    plan, looked, fellows = yield from _scaled(model, image, cut, diameter, adapt, options)
    fingerprint = plan.fingerprint(model.sha256, side, origin, *map(repr, (*options.values(), *regions)))
    store = TileStore(keep, f"{fingerprint}-{image_digest}") if keep else None
    run = _Run(plan, cut(plan), model.device, model.precision, store, store.read() if store else {}, regions)
    options["whole"] = replace(options["whole"], fellows=fellows)
    run.notes += _size_note(plan, model, diameter)
    if run.found:
        run.notes.append(f"{len(run.found)} tiles were done before")
    for number, before in looked.items():
        yield run.take(number, before)
    yield from _look_at_all(model, image, run, options, engine)
    run.notes.append(_summed_up(run))
    done = run.joined()
    if store:
        store.discard()
    return replace(done, raw=replace(done.raw, fingerprint=fingerprint))


def _size_note(plan: Plan, model: LoadedModel, diameter: float | None) -> list[str]:
    """A sentence on nuclei that are looked at enlarged or reduced, if nobody asked for it."""
    usual = model.info.architecture.usual_scale(plan.shape)
    if plan.scale == usual or diameter is not None:
        return []
    size = "small" if plan.scale > usual else "large"
    return [f"nuclei are {size}: looked at {plan.scale:.2f} times the size"]


@dataclass
class _Run:
    """An image half done."""

    plan: Plan
    tiles: list[Tile]
    device: torch.device
    precision: str
    store: TileStore | None
    found: dict[int, RawInstances]
    regions: Sequence[Region] = ()
    empty: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def take(self, number: int, answer: Prediction) -> Progress:
        """Keep what a tile's prediction answers for, and tell of it."""
        self.device = answer.device
        self.notes += [n for n in answer.notes if n not in self.notes]
        raw = _kept(answer.raw, self.tiles[number], number, self.plan.shape, NEAR / _zoom(self.plan))
        middles = (raw.boxes[:, :2] + raw.boxes[:, 2:]) / 2
        raw = raw[np.flatnonzero(inside_any(self.regions, middles))]
        self.found[number] = raw
        if self.store:
            self.store.write(number, raw)
        return self.progress(0, lambda: (self.tiles[number], raw))

    def progress(self, within: float, patch: Callable[[], Any] | None = None) -> Progress:
        """Where the run stands, `within` being the share of the tile under way."""
        done, count = len(self.found) + len(self.empty), len(self.tiles)
        return Progress(
            (done + within) / count, f"tile {min(done + 1, count)} of {count}", self.joined, patch
        )

    def joined(self) -> Prediction:
        """All tiles so far as one prediction, to be thinned again: seams hold nuclei twice."""
        parts = [self.found[n] for n in sorted(self.found)]
        raw = RawInstances.concatenate(parts) if parts else RawInstances.empty(self.plan.shape)
        return Prediction(replace(raw, thinned=1.0), self.plan, self.device, self.precision, list(self.notes))


def _zoom(plan: Plan) -> float:
    return plan.scaled[0] / plan.shape[0]


def _summed_up(run: _Run) -> str:
    """How many tiles there were, and in how many regions."""
    tiles, regions = len(run.tiles), len(run.regions)
    within = f"{regions} region{'s' if regions != 1 else ''} in " if regions else ""
    empty = f", {len(run.empty)} of them empty" if run.empty else ""
    return f"{within}{tiles} tile{'s' if tiles != 1 else ''}{empty}"


def _cut(plan: Plan, side: int, origin: tuple[int, int], regions: Sequence[Region]) -> list[Tile]:
    """Tiles of so many network pixels, of the whole image or of the boxes around regions."""
    zoom = _zoom(plan)
    wide, margin = max(16, round(side / zoom)), round(MARGIN / zoom)
    if not regions:
        return tiles_of(plan.shape, wide, margin, origin)
    boxes = [box for region in regions if (box := region.box(plan.shape)) is not None]
    if not boxes:
        raise UserError(f"the regions lie outside the image of {plan.shape[0]} × {plan.shape[1]} pixels")
    cores = [
        (y0 + top, x0 + left, y0 + bottom, x0 + right)
        for y0, x0, y1, x1 in dict.fromkeys(boxes)
        for top, left, bottom, right in (t.core for t in tiles_of((y1 - y0, x1 - x0), wide, 0))
    ]
    height, width = plan.shape
    return [
        Tile(
            (y0, x0, y1, x1),
            (max(0, y0 - margin), max(0, x0 - margin), min(height, y1 + margin), min(width, x1 + margin)),
        )
        for y0, x0, y1, x1 in cores
    ]


def _scaled(
    model: LoadedModel,
    image: Any,
    cut: Callable[[Plan], list[Tile]],
    diameter: float | None,
    adapt: Callable[[list[RawInstances], Plan], float | None] | None,
    options: dict[str, Any],
) -> Steps[tuple[Plan, dict[int, Prediction], Fellows | None]]:
    """The plan, which the nuclei's size may change, the tiles that were looked at with it, their nuclei."""
    shape = (int(image.shape[0]), int(image.shape[1]))
    plan = partial(
        make_plan, shape, model.info.architecture, trained_diameter=model.info.diameter, diameter=diameter
    )
    usual = plan()
    if adapt is None and model.info.rescoring is None:
        return usual, {}, None
    looked = yield from _look_at_some(model, image, cut(usual), options, usual.scale)
    evidence = [answer.evidence for answer in looked.values() if answer.evidence is not None]
    fellows = fellows_of(np.concatenate(evidence)) if evidence else None
    looked = {number: answer.rescored(model, fellows) for number, answer in looked.items()}
    scale = adapt([answer.raw for answer in looked.values()], usual) if adapt else None
    return (usual, looked, fellows) if scale is None else (plan(scale=scale), {}, fellows)


def _look_at_some(
    model: LoadedModel, image: Any, tiles: list[Tile], options: dict[str, Any], scale: float
) -> Steps[dict[int, Prediction]]:
    """Predictions of a few tiles that hold something, spread over the image."""
    wanted = min(MOST_LOOKED_AT, 1 + len(tiles) // 16)
    apart = max(1, len(tiles) // wanted)
    order = sorted(range(len(tiles)), key=lambda n: (abs(n % apart - apart // 2), n))
    found: dict[int, Prediction] = {}
    for number in order:
        y0, x0, y1, x1 = tiles[number].window
        pixels = np.asarray(image[y0:y1, x0:x1])
        if len(found) == wanted:
            break
        if not is_empty(pixels, options["whole"].reading):
            yield Progress(0.0, "looking what the nuclei are like")
            found[number] = yield from _quietly(predict(model, pixels, **options, scale=scale))
    return found


def _quietly(steps: Steps[Prediction]) -> Steps[Prediction]:
    """The same without any share of the work done."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            answer: Prediction = end.value
            return answer
        yield Progress(0.0, "looking what the nuclei are like")


def _todo(image: Any, run: _Run, reading: Reading) -> Iterator[tuple[int, NDArray[Any]]]:
    """Tiles that have to be looked at, read one at a time."""
    for number, tile in enumerate(run.tiles):
        if number in run.found:
            continue
        y0, x0, y1, x1 = tile.window
        pixels = np.asarray(image[y0:y1, x0:x1])
        if is_empty(pixels, reading):
            run.empty.add(number)
        else:
            yield number, pixels


def _look_at_all(
    model: LoadedModel, image: Any, run: _Run, options: dict[str, Any], engine: Engine | None
) -> Steps[None]:
    """All tiles that are not done yet."""
    todo = _todo(image, run, options["whole"].reading)
    work = partial(_predict_tile, {**options, "scale": run.plan.scale}, model.named is not None)
    if engine is None:
        yield from _one_by_one(model, _ahead(todo), work, run)
        return
    for number, answer in engine.map(partial(_drained, work), todo):
        if isinstance(answer, UserError):
            raise answer
        yield run.take(number, answer)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a thread while the one before is worked on: slow disks and lazy arrays."""
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _one_by_one(
    model: LoadedModel,
    todo: Iterator[tuple[int, NDArray[Any]]],
    work: Callable[[LoadedModel, NDArray[Any]], Steps[Prediction]],
    run: _Run,
) -> Steps[None]:
    """Here, with progress inside each tile, so that Cancel is quick."""
    for number, pixels in todo:
        steps = work(model, pixels)
        while True:
            try:
                yield run.progress(next(steps).done)
            except StopIteration as end:
                yield run.take(number, end.value)
                break


def _predict_tile(
    options: dict[str, Any], special: bool, model: LoadedModel, pixels: NDArray[Any]
) -> Steps[Prediction]:
    """By the network that fits the image: an engine knows the weights that were asked for."""
    return predict(model.for_tissue(special), pixels, **options)


def _drained(
    work: Callable[[LoadedModel, Any], Steps[Prediction]], model: LoadedModel, pixels: NDArray[Any]
) -> Prediction:
    return drain(work(model, pixels))


def _looked_over(image: Any) -> tuple[str, Reading]:
    """What tells an image from others, and how it is read where nobody says, both from its overview."""
    seen = overview(image)
    digest = hashlib.sha256(np.ascontiguousarray(seen).tobytes()).hexdigest()[:16]
    return digest, readings(seen)[0]


def is_empty(pixels: NDArray[Any], reading: Reading) -> bool:
    """Whether nothing stands out in a tile: means of 4 × 4 pixels, as the image is read."""
    values = reading(pixels)
    rows, columns = (max(1, n // 4) for n in pixels.shape[:2])
    cut = values[: rows * 4, : columns * 4]
    blocks = cut.reshape(rows, -1, columns, cut.shape[1] // columns, cut.shape[2]).mean(axis=(1, 3))
    spread = np.percentile(blocks, 99.9, axis=(0, 1)) - np.percentile(blocks, 5, axis=(0, 1))
    return bool(spread.max() < EMPTY)


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
