"""Time series and z-stacks: plane by plane, and nuclei of neighbouring planes joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.channels import check_image, overview
from napari_deepretina.data.deconvolution import STAINS
from napari_deepretina.data.picture import Picture
from napari_deepretina.data.reading import readings
from napari_deepretina.data.regions import with_regions
from napari_deepretina.document.measure import channels_of, joined, measure_instances
from napari_deepretina.document.records import Nucleus, better, known_columns, records_of
from napari_deepretina.errors import UserError
from napari_deepretina.inference.asked import for_image, regions_of
from napari_deepretina.inference.device import resolve_device
from napari_deepretina.inference.engine import Engine, threads
from napari_deepretina.inference.linking import Linker
from napari_deepretina.inference.plan import make_plan
from napari_deepretina.inference.reading import choose_reading
from napari_deepretina.inference.segment import (
    Segmentation,
    asks_specialist,
    empty_segmentation,
    segment_steps,
    segment_together,
    select_channel,
)
from napari_deepretina.inference.settings import SegmentSettings, make_settings
from napari_deepretina.inference.steps import Patch, Progress, Steps, drain
from napari_deepretina.inference.tiles import is_empty
from napari_deepretina.instances.labels import room_for
from napari_deepretina.model.weights import LoadedModel, load_model

LOOKED_OVER = 16
"""Planes that the range of intensities of the whole stack is told from."""
Index = tuple[int, ...]


@dataclass
class StackSegmentation:
    """What became of a stack; grows while it is worked on.

    Attributes
    ----------
    labels : (…, H, W) int32, the picture's planes first; planes that were not asked for hold 0.
    axes : a letter for each of its axes.
    planes : result of each plane that is done, by its position; their raw detections are kept only if it
        is to be tuned.
    ids : id in `labels` of each of a plane's instances.
    settings, weights : as in `Segmentation`.
    """

    labels: NDArray[np.int32]
    axes: str
    settings: SegmentSettings
    weights: dict[str, str]
    planes: dict[Index, Segmentation] = field(default_factory=dict)
    ids: dict[Index, NDArray[np.int32]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Objects, those of linked planes counted once."""
        return max((int(ids.max(initial=0)) for ids in self.ids.values()), default=0)

    @property
    def seconds(self) -> dict[str, float]:
        """Time per phase, all planes together."""
        kinds = ("network", "postprocess")
        return {k: round(sum(p.seconds[k] for p in self.planes.values()), 4) for k in kinds}

    def features(
        self,
        plane: Callable[[Index], Any] | None = None,
        *,
        pixel_size: tuple[float, float] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """The table of objects, one row each, row i for id i + 1.

        Parameters
        ----------
        plane : gives the (H, W) or (H, W, C) image of a plane, whose intensities are measured.
        pixel_size : height and width of a pixel in µm.

        Returns
        -------
        dict
            As of a `Segmentation`: score and votes are the best of an object's planes, ``area`` counts all
            of them, and its shape is that of the largest. ``planes`` tells how many, ``first`` and ``last``
            where, along the last plane axis.
        """
        nuclei: dict[int, Nucleus] = {}
        measured = []
        for index, ids in self.ids.items():
            found = replace(self.planes[index].instances, ids=ids.astype(np.int64))
            for label, record in records_of(found, ids).items():
                nuclei[label] = better(record, nuclei.get(label))
            channels = channels_of(plane(index)) if plane is not None else {}
            measured.append((index[-1], measure_instances(found, channels, pixel_size=pixel_size)))
        if not measured:
            return known_columns(np.zeros(0, np.int64), {}, {}, ())
        table = joined(measured)
        areas = dict(zip(table["index"].tolist(), table["area"].tolist(), strict=True))
        names = next(iter(self.planes.values())).weights["classes"].split("\n")
        table = known_columns(table["index"], nuclei, areas, names) | table
        return with_regions(table, regions_of(self.settings))

    def provenance(self) -> dict[str, Any]:
        """What is needed to repeat the run, as of `Segmentation`."""
        told = next(iter(self.planes.values())).provenance() if self.planes else {}
        extent = list(self.labels.shape[:-2])
        return {
            **told,
            "notes": self.notes,
            "seconds": self.seconds,
            "stack": {"axes": self.axes, "shape": extent},
        }


def segment_stack(
    stack: Any, axes: str = "ZYX", *, model: LoadedModel | None = None, **settings: Any
) -> StackSegmentation:
    """Segment the planes of a stack.

    Parameters
    ----------
    stack : array of numpy, dask or zarr, any real dtype.
    axes : a letter for each of its axes: Y, X, C for channels or RGB, any others count planes.
    model : from `load_model`; by default loaded for this call.
    **settings : fields of `SegmentSettings`: ``link``, ``link_gap``, ``planes``, ``channel``, ``score`` …

    Raises
    ------
    UserError
        For a stack, axes, weights or settings that cannot work; the message names the remedy.
    """
    checked = make_settings(**settings)
    picture = Picture(stack if hasattr(stack, "dtype") else np.asarray(stack), axes)
    if not picture.extent:
        raise UserError(f"axes {axes!r} have no planes: use segment for a single image")
    if model is None:
        model = load_model(checked.weights, resolve_device(checked.device), checked.precision)
    with threads(model) as engine:
        return drain(segment_stack_steps(picture, model, checked, engine=engine))


def segment_stack_steps(
    picture: Picture,
    model: LoadedModel,
    settings: SegmentSettings,
    *,
    engine: Engine | None = None,
    tunable: bool = False,
) -> Steps[StackSegmentation]:
    """Segment the planes that the settings ask for, and link them if they say so.

    Planes that are empty beside the rest of the stack are skipped; of several channels one serves all planes.

    Parameters
    ----------
    picture : with at least one axis of planes.
    engine : does several planes at a time; by default one after the other is done here.
    tunable : keep the raw detections of each plane, under the settings' thresholds as well.

    Yields
    ------
    Progress
        ``partial`` is a function that gives the stack as it is, ``patch`` one that gives a plane's labels.

    Raises
    ------
    UserError
        If there are no such planes or channels.
    """
    settings = for_image(settings, names=picture.channels, channels=picture.channel_count)
    indices = list(picture.indices(settings.planes))
    yield Progress(0.0, "looking over the stack")
    settings, told = yield from _in_one_channel(picture, indices, model, settings)
    result = StackSegmentation(
        room_for((*picture.extent, *picture.height_width)),
        "".join(picture.axes[i] for i in picture.plane_axes) + "YX",
        settings,
        {},
    )
    result.notes += told
    seen = _looked_over(picture, indices, settings.channel)
    brightness = readings(seen)[0]
    order, empty = _Order(indices, result, settings, tunable=tunable), []

    def todo() -> Iterator[tuple[Index, NDArray[Any]]]:
        for index in indices:
            pixels = np.asarray(select_channel(picture.plane(index), settings.channel))
            if is_empty(pixels, brightness):
                empty.append(index)
                order.take(index, empty_segmentation(picture.height_width, model, settings))
            else:
                yield index, pixels

    single = _of_a_plane(settings, seen)
    if engine is None:
        yield from _one_by_one(model, single, todo(), order, tunable=tunable)
    else:
        yield from _several(engine, single, todo(), order, tunable=tunable)
    order.close()
    result.notes.append(f"{len(indices)} planes" + (f", {len(empty)} of them empty" if empty else ""))
    return result


def _in_one_channel(
    picture: Picture, indices: Sequence[Index], model: LoadedModel, settings: SegmentSettings
) -> Steps[tuple[SegmentSettings, list[str]]]:
    """The settings with one channel, or the same stains, for all planes, and a sentence on it.

    Told from the plane that shows most, of a few that are looked over.
    """
    if settings.channel is not None or "C" not in picture.axes:
        return settings, []
    chosen = np.unique(np.linspace(0, len(indices) - 1, LOOKED_OVER).round().astype(int))
    planes = [picture.plane(indices[i]) for i in chosen]
    shape = check_image(planes[0])
    fullest = int(np.argmax([float(np.asarray(overview(p)[::4, ::4], np.float64).std()) for p in planes]))
    info = model.info
    plan = make_plan(shape, info.architecture, trained_diameter=info.diameter, diameter=settings.diameter)
    reading = yield from choose_reading(model, planes[fullest], plan, settings)
    for name, (stains, told) in STAINS.items():
        if reading.stains == stains:
            return settings.model_copy(update={"intensity": name}), [told]
    if reading.channels is None or len(reading.channels) > 1:
        return settings, []
    return settings.model_copy(update={"channel": reading.channels[0]}), [reading.note]


def _of_a_plane(settings: SegmentSettings, seen: NDArray[Any]) -> SegmentSettings:
    """The settings for planes whose channel was taken, with one network for all of them."""
    single = settings.model_copy(update={"channel": None})
    asked = "always" if asks_specialist(seen, single) else "never"
    return single.model_copy(update={"specialist": asked})


def _looked_over(picture: Picture, indices: Sequence[Index], channel: int | str | None) -> NDArray[Any]:
    """A few planes of a stack, one below the other: what tells how it is read as a whole."""
    chosen = np.unique(np.linspace(0, len(indices) - 1, LOOKED_OVER).round().astype(int))
    seen = [overview(select_channel(picture.plane(indices[i]), channel))[::2, ::2] for i in chosen]
    return np.concatenate(seen)


def _one_by_one(
    model: LoadedModel,
    settings: SegmentSettings,
    todo: Iterator[tuple[Index, NDArray[Any]]],
    order: _Order,
    *,
    tunable: bool,
) -> Steps[None]:
    """Here, with progress inside each plane."""
    for index, pixels in todo:
        steps = segment_steps(pixels, model, settings, tunable=tunable)
        while True:
            try:
                yield order.progress(next(steps).done, None)
            except StopIteration as end:
                yield order.progress(0, order.take(index, end.value))
                break


def _several(
    engine: Engine,
    settings: SegmentSettings,
    todo: Iterator[tuple[Index, NDArray[Any]]],
    order: _Order,
    *,
    tunable: bool,
) -> Steps[None]:
    """By an engine, several planes at a time."""
    work = partial(tunable_images if tunable else whole_images, settings)
    for index, answer in engine.map(work, ((i, [p]) for i, p in todo)):
        if isinstance(answer, UserError):
            raise answer
        yield order.progress(0, order.take(index, answer[0]))


def whole_images(
    settings: SegmentSettings, model: LoadedModel, images: Sequence[NDArray[Any]]
) -> list[Segmentation]:
    """Images of one size, their raw detections left out: what an `Engine` is given to do."""
    return [without_raw(done) for done in segment_together(images, model, settings)]


def tunable_images(
    settings: SegmentSettings, model: LoadedModel, images: Sequence[NDArray[Any]]
) -> list[Segmentation]:
    """The same, each with all of its raw detections."""
    return [drain(segment_steps(image, model, settings, tunable=True)) for image in images]


def without_raw(done: Segmentation) -> Segmentation:
    """The same with no raw detections: a fraction of the memory."""
    prediction = done.prediction
    return replace(done, prediction=replace(prediction, raw=prediction.raw[:0]))


class _Order:
    """Planes come in any order; ids are given in the stack's order, as far as it is unbroken."""

    def __init__(
        self, indices: list[Index], result: StackSegmentation, settings: SegmentSettings, *, tunable: bool
    ) -> None:
        self._indices, self._result, self._tunable = indices, result, tunable
        self._links = settings.link > 0
        self._linker = Linker(settings.link, settings.link_gap)
        self._waiting: dict[Index, Segmentation] = {}
        self._next = 0
        self._done = 0

    def take(self, index: Index, plane: Segmentation) -> Any:
        """Keep a plane; gives the function that gives its patch."""
        self._waiting[index] = plane if self._tunable else without_raw(plane)
        self._done += 1
        while self._next < len(self._indices) and self._indices[self._next] in self._waiting:
            self._write(self._indices[self._next])
            self._next += 1
        shape = self._result.labels.shape
        return lambda: Patch(shape, (*index, 0, 0), plane.labels[(None,) * len(index)])

    def close(self) -> None:
        """Write what still waits, for the run is over before its end."""
        for index in self._indices[self._next :]:
            if index in self._waiting:
                self._write(index)

    def progress(self, within: float, patch: Any) -> Progress:
        """Where the run stands."""
        count = len(self._indices)
        text = f"plane {min(self._done + 1, count)} of {count}"
        return Progress((self._done + within) / count, text, partial(self._so_far, text), patch)

    def _so_far(self, text: str) -> StackSegmentation:
        self.close()
        self._result.notes.append(f"cancelled at {text}")
        return self._result

    def _write(self, index: Index) -> None:
        plane = self._waiting.pop(index)
        if not self._links or index[-1] == self._indices[0][-1]:
            self._linker.restart()
        labels = plane.labels
        ids = self._linker.add(labels)
        self._result.labels[index] = np.concatenate([[0], ids]).astype(np.int32)[labels]
        plane.__dict__.pop("labels", None)  # painted for this moment only
        self._result.planes[index], self._result.ids[index] = plane, ids
        self._result.weights = plane.weights
        asked = {name: getattr(self._result.settings, name) for name in ("channel", "specialist")}
        self._result.settings = plane.settings.model_copy(update=asked)
