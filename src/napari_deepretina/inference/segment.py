"""From an image to a label image in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina import __version__
from napari_deepretina.data.channel_names import number_of
from napari_deepretina.data.channels import check_image
from napari_deepretina.data.reading import Reading
from napari_deepretina.data.regions import with_regions
from napari_deepretina.data.tissue import needs_specialist
from napari_deepretina.document.measure import channels_of, measure_instances
from napari_deepretina.document.records import known_columns, records_of
from napari_deepretina.errors import UserError
from napari_deepretina.inference.asked import for_image, regions_of
from napari_deepretina.inference.device import describe_device, resolve_device
from napari_deepretina.inference.engine import Engine
from napari_deepretina.inference.plan import Plan, make_plan
from napari_deepretina.inference.predict import Prediction, Whole, predict, predict_together
from napari_deepretina.inference.reading import offered_readings, read_and_fitted
from napari_deepretina.inference.settings import SegmentSettings, make_settings
from napari_deepretina.inference.steps import Patch, Progress, Steps, drain
from napari_deepretina.inference.tiles import Tile, needs_tiles, predict_tiled
from napari_deepretina.inference.views import resolve_views
from napari_deepretina.instances import Instances, RawInstances
from napari_deepretina.instances.labels import LabelImage
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.weights import LoadedModel, load_model
from napari_deepretina.postprocess import PostprocessSettings, postprocess
from napari_deepretina.postprocess.nms import nms

FEW = 5
"""Fewer nuclei tell nothing of an image's scale."""


@dataclass(frozen=True)
class Segmentation:
    """What `segment` answers; unpacks into ``labels, instances``.

    Attributes
    ----------
    instances : disjoint objects, highest score first.
    prediction : raw detections, plan, device and notes.
    seconds : time per phase: ``network``, ``postprocess``.
    settings : those used.
    weights : name, sha256, file name and (by line) class names of the weights; ``specialist`` and its sha256,
        if one looked in their stead.
    """

    instances: Instances
    prediction: Prediction
    seconds: dict[str, float]
    settings: SegmentSettings
    weights: dict[str, str]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.labels, self.instances))

    @cached_property
    def labels(self) -> LabelImage:
        """(H, W) int32, id i is instances[i - 1]; painted when first asked for."""
        return self.instances.to_labels()

    @property
    def count(self) -> int:
        """Nuclei."""
        return len(self.instances)

    @property
    def tunable(self) -> bool:
        """Whether the raw detections behind the nuclei were kept."""
        return bool(self.instances.sources.max(initial=-1) < len(self.prediction.raw))

    def features(
        self, image: Any = None, *, pixel_size: tuple[float, float] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The table of nuclei, one row each, row i for label i + 1.

        Parameters
        ----------
        image : (H, W) or (H, W, C), whose intensities are measured.
        pixel_size : height and width of a pixel in µm.

        Returns
        -------
        dict
            ``index`` (the label), ``state``, ``source``, ``score``, ``votes`` (views that saw it), ``class``
            (name), ``area`` (pixels), then what `napari_deepretina.document.measure` gives. Channels are
            called ``intensity``, ``red`` …, ``channel_0`` …. ``region`` comes last, where only regions were
            looked at.
        """
        found = self.instances
        names = self.weights["classes"].split("\n")
        areas = dict(zip(found.ids.tolist(), found.areas.tolist(), strict=True))
        known = known_columns(found.ids, records_of(found, found.ids), areas, names)
        channels = channels_of(image) if image is not None else {}
        table = known | measure_instances(found, channels, pixel_size=pixel_size)
        return with_regions(table, regions_of(self.settings))

    def provenance(self) -> dict[str, Any]:
        """What is needed to repeat the run: versions, weights, settings, device."""
        import torch

        return {
            "napari_deepretina": __version__,
            "torch": torch.__version__,
            "weights": {k: v for k, v in self.weights.items() if k != "classes"},
            "settings": self.settings.model_dump(mode="json"),
            "device": describe_device(self.prediction.device),
            "precision": self.prediction.precision,
            "notes": self.prediction.notes,
            "scale": self.prediction.plan.scale,
            "seconds": self.seconds,
        }


def segment(image: NDArray[Any], *, model: LoadedModel | None = None, **settings: Any) -> Segmentation:
    """Find the nuclei in one image.

    Parameters
    ----------
    image : (H, W) grey or (H, W, 3 or 4) RGB(A), any real dtype; with ``channel``, (H, W, C). Large ones are
        read tile by tile, so they may be arrays of dask or zarr.
    model : from `load_model`, to use it for several images; by default loaded for this call.
    **settings : fields of `SegmentSettings`: ``weights``, ``device``, ``channel``, ``diameter``,
        ``score``, ``nms``, ``mask_threshold``, ``dilation``, ``min_area`` …

    Returns
    -------
    Segmentation
        ``labels, instances = segment(image)``.

    Raises
    ------
    UserError
        For an image, weights or settings that cannot work; the message names the remedy.
    """
    checked = make_settings(**settings)
    if model is None:
        model = load_model(checked.weights, resolve_device(checked.device), checked.precision)
    return drain(segment_steps(image if hasattr(image, "dtype") else np.asarray(image), model, checked))


def segment_steps(
    image: NDArray[Any],
    model: LoadedModel,
    settings: SegmentSettings,
    *,
    tunable: bool = False,
    engine: Engine | None = None,
    keep: Path | None = None,
) -> Steps[Segmentation]:
    """The same in steps: progress at each, cancelled by closing the generator.

    With `tunable`, raw detections under the settings' thresholds are kept as well, which takes longer
    and changes nothing else. `engine` and `keep` serve images in tiles, see `predict_tiled`. ``partial`` of
    a step, where there is one, is a function without arguments that gives the segmentation from the views or
    the tiles done so far; ``patch`` one that gives the labels of a tile that was finished.
    """
    begun = time.perf_counter()
    views = resolve_views(settings.tta)
    settings = for_image(settings, channels=image.shape[2] if image.ndim == 3 else 1)
    image = select_channel(image, settings.channel)
    reading, model = yield from read_and_fitted(model, image, settings)
    options: dict[str, Any] = {
        "diameter": settings.diameter,
        "limits": Limits() if tunable else strict_limits(settings.postprocessing(model.info)),
        "views": views,
        "channel_shift_seed": settings.channel_shift_seed,
    }
    plan = make_plan(
        check_image(image), model.info.architecture, trained_diameter=model.info.diameter,
        diameter=settings.diameter,
    )  # fmt: skip
    regions = regions_of(settings)
    tiled = bool(regions) or needs_tiles(plan, settings.tile)
    options["whole"] = Whole(reading)
    adapt = partial(adapted_scale, model, settings)
    steps: Steps[Prediction]
    if tiled:
        more: dict[str, Any] = {"engine": engine, "keep": keep, "adapt": adapt, "regions": regions}
        steps = predict_tiled(model, image, side=settings.tile, **more, **options)
    else:
        steps = _adapted(model, np.asarray(image), adapt, options)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            prediction: Prediction = end.value
            break
        if step.partial is not None:
            asked = None if tiled else len(views)
            step = replace(step, partial=partial(_unfinished, step, asked, model, settings, begun))
        if step.patch is not None:
            step = replace(step, patch=partial(_patch, step.patch, settings.postprocessing(model.info)))
        yield step
    yield Progress(0.92, "post-processing")
    return _finished(_noted(prediction, reading, model, settings), model, settings, begun)


def asks_specialist(
    image: Any, settings: SegmentSettings, load: Callable[[], LoadedModel] | None = None
) -> bool:
    """Whether the specialist is to look: as the settings say, or as the image shows.

    Parameters
    ----------
    image : (H, W) or (H, W, C), as `segment` takes it.
    load : gives the model that decides where an image can be read in several ways; without it the best guess
        counts.
    """
    if settings.specialist != "auto":
        return settings.specialist == "always"
    channels = image.shape[2] if image.ndim == 3 else 1
    seen = select_channel(image, for_image(settings, channels=channels).channel)
    reading, *others = offered_readings(seen, settings)
    if others and load is not None:
        reading, _ = drain(read_and_fitted(load(), seen, settings))
    return needs_specialist(seen, reading)


def _noted(
    prediction: Prediction, reading: Reading, model: LoadedModel, settings: SegmentSettings
) -> Prediction:
    """With sentences on how the image was read and by which network, if that is not plain."""
    looked = ""
    if model.named is not None:
        looked = f"looked at with {model.info.name}"
        score, usual = (settings.postprocessing(m.info).score for m in (model, model.named))
        looked += f", lowest score {score:g}" if score != usual else ""
    return replace(prediction, notes=[*filter(None, (reading.note, looked)), *prediction.notes])


def adapted_scale(
    model: LoadedModel, settings: SegmentSettings, seen: Sequence[RawInstances], plan: Plan
) -> float | None:
    """Zoom for a second look at an image whose nuclei are small or large to the network; None if neither.

    Parameters
    ----------
    seen : detections of the image, or of parts of it.
    plan : how it was looked at.
    """
    if not settings.adapt or settings.diameter is not None or model.info.architecture.is_matterport:
        return None
    chosen = settings.postprocessing(model.info)
    boxes = np.concatenate([np.zeros((0, 4)), *(_sure_boxes(r, chosen) for r in seen)])
    if len(boxes) < FEW:
        return None
    diameter = float(np.median(np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))))
    return model.info.architecture.adapted_scale(diameter, model.info.diameter, plan.scale)


def _sure_boxes(raw: RawInstances, chosen: PostprocessSettings) -> NDArray[np.float32]:
    """Boxes of the first view that would become nuclei, whatever else the raw detections hold."""
    sure = raw[np.flatnonzero((raw.scores >= chosen.score) & (raw.views == 0))]
    return sure.boxes[nms(sure.boxes, sure.scores, chosen.nms)]


def _adapted(
    model: LoadedModel,
    image: NDArray[Any],
    adapt: Callable[[Sequence[RawInstances], Plan], float | None],
    options: dict[str, Any],
) -> Steps[Prediction]:
    """Predict, and once more where nuclei turn out to be small, or large."""
    first = yield from predict(model, image, **options)
    scale = adapt([first.raw], first.plan)
    if scale is None:
        return first
    second = yield from predict(model, image, **options, scale=scale)
    size = "small" if scale > first.plan.scale else "large"
    note = f"nuclei are {size}: looked again at {scale:.2f} times the size"
    return replace(second, notes=[*second.notes, note])


def segment_together(
    images: Sequence[NDArray[Any]], model: LoadedModel, settings: SegmentSettings
) -> list[Segmentation]:
    """Small images of one size, in one call of the network where each is looked at once."""
    if len(images) <= 1 or settings.tta != "none" or settings.regions is not None:
        return [drain(segment_steps(image, model, settings)) for image in images]
    begun = time.perf_counter()
    chosen = [select_channel(image, settings.channel) for image in images]
    read = [drain(read_and_fitted(model, image, settings)) for image in chosen]
    found: dict[int, tuple[Prediction, LoadedModel]] = {}
    for fitted in {id(m): m for _, m in read}.values():
        mine = [k for k, (_, m) in enumerate(read) if m is fitted]
        seen = _together(fitted, [chosen[k] for k in mine], [read[k][0] for k in mine], settings)
        found |= {k: (one, fitted) for k, one in zip(mine, seen, strict=True)}
    begun += (time.perf_counter() - begun) * (1 - 1 / len(images))  # each image's share of the time
    return [_finished(*found[k], settings, begun) for k in range(len(images))]


def _together(
    model: LoadedModel, images: Sequence[NDArray[Any]], readings: Sequence[Reading], settings: SegmentSettings
) -> list[Prediction]:
    """Predictions of small images by one network, in one batch."""
    limits = strict_limits(settings.postprocessing(model.info))
    found = drain(predict_together(model, images, settings.diameter, limits, readings))
    for k, (image, one, reading) in enumerate(zip(images, found, readings, strict=True)):
        if (scale := adapted_scale(model, settings, [one.raw], one.plan)) is not None:
            one = drain(predict(model, image, limits=limits, scale=scale, whole=Whole(reading)))
        found[k] = _noted(one, reading, model, settings)
    return found


def _unfinished(
    step: Progress, views: int | None, model: LoadedModel, settings: SegmentSettings, begun: float
) -> Segmentation:
    """What a run leaves that was cancelled at this step: among so many views, or tiles."""
    so_far: Prediction = step.partial()
    note = (
        f"cancelled at {step.text}"
        if views is None
        else (f"cancelled after {so_far.raw.view_count} of {views} views")
    )
    return _finished(replace(so_far, notes=[*so_far.notes, note]), model, settings, begun)


def _patch(found: Callable[[], tuple[Tile, RawInstances]], chosen: PostprocessSettings) -> Patch:
    """Labels of one tile, for the eye: on seams its neighbours have not been asked."""
    tile, raw = found()
    y0, x0, y1, x1 = tile.window
    moved = replace(raw, boxes=raw.boxes - np.array([x0, y0, x0, y0], np.float32), shape=(y1 - y0, x1 - x0))
    labels = postprocess(replace(moved, thinned=1.0), chosen).to_labels()
    top, left, bottom, right = tile.core
    return Patch(raw.shape, (top, left), labels[top - y0 : bottom - y0, left - x0 : right - x0])


def _finished(
    prediction: Prediction, model: LoadedModel, settings: SegmentSettings, begun: float
) -> Segmentation:
    """Post-process what the network found."""
    detected = time.perf_counter()
    chosen = settings.postprocessing(model.info)
    instances = postprocess(prediction.raw, chosen)
    return Segmentation(
        instances=instances,
        prediction=prediction,
        seconds={
            "network": round(detected - begun, 4),
            "postprocess": round(time.perf_counter() - detected, 4),
        },
        settings=settings.model_copy(update=chosen.model_dump()),
        weights=model.told() | {"classes": "\n".join(model.info.architecture.classes)},
    )


def empty_segmentation(shape: tuple[int, int], model: LoadedModel, settings: SegmentSettings) -> Segmentation:
    """No nuclei, for an image of this (height, width) that need not be looked at."""
    info = model.info
    plan = make_plan(shape, info.architecture, trained_diameter=info.diameter, diameter=settings.diameter)
    nothing = Prediction(RawInstances.empty(shape), plan, model.device, model.precision, [])
    return _finished(nothing, model, settings, time.perf_counter())


def strict_limits(chosen: PostprocessSettings) -> Limits:
    """Limits that spare the masks which post-processing would throw away.

    Thinning is greedy from the highest score down, so what goes early changes nothing for the rest.
    """
    loose = Limits()
    return loose.model_copy(
        update={"score": max(loose.score, chosen.score), "nms": min(loose.nms, chosen.nms)}
    )


def select_channel(image: NDArray[Any], channel: int | str | None) -> NDArray[Any]:
    """One channel of (H, W, C), or the image as it is; UserError if there is no such channel."""
    if channel is None:
        return image
    channels = image.shape[2] if image.ndim == 3 else 1
    channel = number_of(channel, (), channels)
    if image.ndim not in (2, 3) or channel >= channels:
        raise UserError(
            f"channel {channel} was asked for, but the image of shape {image.shape} has {channels}, "
            "counted from 0"
        )
    return image[..., channel] if image.ndim == 3 else image
