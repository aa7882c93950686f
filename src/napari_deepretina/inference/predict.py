"""Run the network over an image, in steps that can be shown and cancelled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from napari_deepretina.data.channels import check_image
from napari_deepretina.data.normalise import eight_bit, normalise
from napari_deepretina.data.reading import Reading
from napari_deepretina.errors import UserError, out_of_memory
from napari_deepretina.inference import matterport
from napari_deepretina.inference.card import downloaded, room_on, uploaded
from napari_deepretina.inference.plan import Plan, make_plan
from napari_deepretina.inference.steps import Progress, Steps
from napari_deepretina.inference.views import View, shift_channels
from napari_deepretina.instances import RawInstances
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.regions import Detections
from napari_deepretina.model.rescoring import Fellows, evidence_of
from napari_deepretina.model.weights import LoadedModel

MEGAPIXELS_AT_ONCE = 2.0
"""Views of the same size go through the network together up to this many; more only costs memory."""


@dataclass(frozen=True)
class Whole:
    """What a part must know of its image: how its values are read, and what nuclei are like in it."""

    reading: Reading | None = None
    fellows: Fellows | None = None


@dataclass
class Prediction:
    """Raw detections with what really ran."""

    raw: RawInstances
    plan: Plan
    device: torch.device
    precision: str
    notes: list[str]
    """What did not go as asked, e.g. that a GPU ran out of memory and the CPU took over."""
    evidence: NDArray[np.float32] | None = None
    """(N, 5) what the scores were told from, where the weights rescore: see `evidence_of`."""

    def rescored(self, model: LoadedModel, fellows: Fellows | None) -> Prediction:
        """The same with scores in the light of other fellows; as it is if the weights do not rescore."""
        rescoring = model.info.rescoring
        if rescoring is None or self.evidence is None:
            return self
        return replace(self, raw=replace(self.raw, scores=rescoring.scores(self.evidence, fellows)))


def predict_together(
    model: LoadedModel,
    images: Sequence[NDArray[Any]],
    diameter: float | None,
    limits: Limits,
    readings: Sequence[Reading | None] | None = None,
) -> Steps[list[Prediction]]:
    """As `predict` of each image with one view, in one batch; their plans must have the same size."""
    read, lay, unlay = _ways(model)
    limits = model.limits(limits)
    looks: list[_Look] = []
    seen: list[NDArray[Any]] = []
    for image, reading in zip(images, readings or [None] * len(images), strict=True):
        shape = check_image(image)
        (look,) = _looks(model, shape, diameter, (View(),), shifted=False, scale=None)
        looks.append(look)
        seen.append(read(image, reading))
    inputs = [lay(pixels, look.plan) for pixels, look in zip(seen, looks, strict=True)]
    windows = torch.tensor([look.plan.window for look in looks])
    found, device, notes = yield from _detect_somehow(model, torch.cat(inputs), windows, limits)
    predictions = []
    for one, look, pixels in zip(found, looks, seen, strict=True):
        raw = replace(look.view.restore(unlay(one, look.plan), look.plan.shape), thinned=limits.nms)
        told = look.plan.fingerprint(model.sha256, repr(look.view), None)
        alone = Prediction(replace(raw, fingerprint=told), look.plan, device, model.precision, list(notes))
        predictions.append(_rescored(alone, model, pixels, None))
    return predictions


@dataclass(frozen=True)
class _Look:
    """A view with its plan and its number; the same look may count for several views."""

    numbers: tuple[int, ...]
    view: View
    plan: Plan


def predict(
    model: LoadedModel,
    image: NDArray[Any],
    *,
    diameter: float | None = None,
    limits: Limits | None = None,
    views: Sequence[View] = (View(),),
    channel_shift_seed: int | None = None,
    scale: float | None = None,
    whole: Whole | None = None,
) -> Steps[Prediction]:
    """Find raw instances in one image.

    Parameters
    ----------
    model : from `load_model`; it may be moved to the CPU if its device runs out of memory.
    image : (H, W) or (H, W, 1|3|4), any real dtype; NaN and infinite pixels count as dark.
    diameter : expected nucleus diameter in pixels; by default `Architecture.usual_scale` counts.
    views : ways to look at the image; each detection tells which one it comes from.
    channel_shift_seed : given, views shift their channels, by draws from this seed.
    scale : zoom from image to network pixels; by default it follows from the image.
    whole : what is known of the larger image that this one is a part of.

    Yields
    ------
    Progress
        With several views, ``partial`` is a function that gives the `Prediction` from those done so far.

    Returns
    -------
    Prediction, through the generator's return value.
    """
    shape = check_image(image)
    looks = _looks(model, shape, diameter, views, shifted=channel_shift_seed is not None, scale=scale)
    yield Progress(0.0, "normalising")
    read, lay, unlay = _ways(model)
    pixels = read(image, whole.reading if whole else None)
    limits = model.limits(limits)
    joined = partial(_prediction, looks=looks, model=model, pixels=pixels, whole=whole)
    found: dict[int, RawInstances] = {}
    notes: list[str] = []
    device = model.device
    for batch in _batches(looks):
        inputs = torch.cat([lay(_seen(pixels, k, channel_shift_seed), k.plan) for k in batch])
        windows = torch.tensor([k.plan.window for k in batch])
        share = sum(len(look.numbers) for look in batch) / len(views)
        steps = _detect_somehow(model, inputs, windows, limits)
        so_far = partial(joined, dict(found), device, list(notes)) if found else None
        detections, device, new_notes = yield from _part(
            steps, len(found) / len(views), share, len(views), so_far
        )
        notes += [note for note in new_notes if note not in notes]
        for look, one in zip(batch, detections, strict=True):
            raw = replace(look.view.restore(unlay(one, look.plan), shape), thinned=limits.nms)
            found |= {n: replace(raw, views=np.full(len(raw), n, np.int32)) for n in look.numbers}
    prediction = joined(found, device, notes)
    fingerprint = prediction.plan.fingerprint(model.sha256, *map(repr, views), channel_shift_seed)
    prediction.raw = replace(prediction.raw, fingerprint=fingerprint)
    return prediction


def _prediction(
    found: dict[int, RawInstances],
    device: torch.device,
    notes: list[str],
    *,
    looks: list[_Look],
    model: LoadedModel,
    pixels: NDArray[Any],
    whole: Whole | None,
) -> Prediction:
    """What the views found so far, which are numbered anew where some are missing."""
    numbers = np.array(sorted(found))
    joined = RawInstances.concatenate([found[n] for n in numbers.tolist()])
    views = np.searchsorted(numbers, joined.views).astype(np.int32)
    plan = next(look.plan for look in looks if 0 in look.numbers)
    raw = replace(joined, views=views, view_count=len(numbers))
    return _rescored(Prediction(raw, plan, device, model.precision, list(notes)), model, pixels, whole)


def _rescored(
    prediction: Prediction, model: LoadedModel, pixels: NDArray[Any], whole: Whole | None
) -> Prediction:
    """With scores in the light of their fellows, where the weights know how."""
    if model.info.rescoring is None:
        return prediction
    return replace(prediction, evidence=evidence_of(prediction.raw, pixels)).rescored(
        model, whole.fellows if whole else None
    )


def _ways(model: LoadedModel) -> tuple[Callable[..., NDArray[Any]], Callable[..., Any], Callable[..., Any]]:
    """How pixels are read, how they are laid before the network, and how its answers come back."""
    if model.info.architecture.is_matterport:
        return eight_bit, matterport.lay_out, matterport.to_raw
    return normalise, lay_out, to_raw


def _looks(
    model: LoadedModel,
    shape: tuple[int, int],
    diameter: float | None,
    views: Sequence[View],
    *,
    shifted: bool,
    scale: float | None,
) -> list[_Look]:
    """What is to be computed: views that show the same pixels are looked at once."""
    same: dict[tuple[View, int], list[int]] = defaultdict(list)
    for number, view in enumerate(views):
        if shifted and view.channel_shift:  # each draws its own shifts
            same[view, number].append(number)
        else:
            same[view.model_copy(update={"channel_shift": 0.0}), -1].append(number)
    looks = []
    for (view, _), numbers in same.items():
        plan = make_plan(
            view.turned(shape),
            model.info.architecture,
            trained_diameter=model.info.diameter,
            diameter=diameter,
            size=view.size(shape),
            scale=scale,
        )
        looks.append(_Look(tuple(numbers), view, plan))
    return looks


def _batches(looks: list[_Look]) -> list[list[_Look]]:
    """Looks of equal size together, as many as MEGAPIXELS_AT_ONCE allows, in the order of the views."""
    open_batches: dict[tuple[int, int], list[_Look]] = {}
    batches: list[list[_Look]] = []
    for look in looks:
        size = look.plan.padded
        batch = open_batches.get(size)
        if batch is None or (len(batch) + 1) * look.plan.megapixels > MEGAPIXELS_AT_ONCE:
            batch = open_batches[size] = []
            batches.append(batch)
        batch.append(look)
    return batches


def _seen(pixels: NDArray[Any], look: _Look, seed: int | None) -> NDArray[Any]:
    turned = look.view.orient(pixels)
    if seed is None or not look.view.channel_shift:
        return turned
    unit = 1 if pixels.dtype == np.uint8 else 1 / 255
    rng = np.random.default_rng([seed, look.numbers[0]])
    return shift_channels(turned, look.view.channel_shift * unit, rng)


def _part(
    steps: Steps[tuple[list[Detections], torch.device, list[str]]],
    start: float,
    share: float,
    view_count: int,
    so_far: Callable[[], Prediction] | None,
) -> Steps[tuple[list[Detections], torch.device, list[str]]]:
    """Steps of a few views as a part of the whole, with what the views before them found."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            result: tuple[list[Detections], torch.device, list[str]] = end.value
            return result
        view = round(start * view_count) + 1
        told = f"{step.text}, view {view} of {view_count}" if view_count > 1 else step.text
        yield Progress(start + share * step.done, told, so_far)


def lay_out(pixels: NDArray[np.float32], plan: Plan) -> torch.Tensor:
    """Scale and pad one normalised (H, W, 3) image to (1, 3, H', W') float32 as its plan says."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    if plan.scaled != plan.shape:
        smaller = plan.scaled[0] < plan.shape[0] or plan.scaled[1] < plan.shape[1]
        tensor = F.interpolate(
            tensor, size=plan.scaled, mode="bilinear", align_corners=False, antialias=smaller
        )
    below, right = plan.padded[0] - plan.scaled[0], plan.padded[1] - plan.scaled[1]
    return F.pad(tensor, (0, right, 0, below))


def to_raw(found: Detections, plan: Plan) -> RawInstances:
    """Detections in the pixels of the planned image; what lies in the padding is left out."""
    height, width = plan.shape
    zoom = np.array([plan.scaled[1] / width, plan.scaled[0] / height] * 2, np.float32)
    boxes = (found.boxes.float().cpu().numpy() / zoom).astype(np.float32)
    inside = (boxes[:, 0] < width) & (boxes[:, 1] < height)
    n = int(inside.sum())
    return RawInstances(
        boxes=boxes[inside],
        scores=found.scores.float().cpu().numpy()[inside],
        masks=found.masks.cpu().numpy()[inside],
        classes=found.classes.cpu().numpy().astype(np.int32)[inside],
        views=np.zeros(n, np.int32),
        tiles=np.zeros(n, np.int32),
        shape=plan.shape,
    )


def _detect_somehow(
    model: LoadedModel, inputs: torch.Tensor, windows: torch.Tensor, limits: Limits
) -> Steps[tuple[list[Detections], torch.device, list[str]]]:
    """Detect on the model's device; short of memory, in smaller batches, then on the CPU."""
    notes: list[str] = []
    small = limits.model_copy(update={"masks_at_once": 16})
    attempts = [
        (model.device, limits, len(inputs), ""),
        (model.device, small, 1, "smaller batches were tried"),
        (torch.device("cpu"), limits, 1, "the CPU took over"),
    ]
    for device, these, at_once, what in attempts:
        if what:
            notes.append(f"{model.device} ran out of memory; {what}")
            yield Progress(0.05, notes[-1])
        there = model if device == model.device else model.to(device)
        try:
            found: list[Detections] = []
            for part, where in zip(*(torch.split(x, at_once) for x in (inputs, windows)), strict=True):
                found += yield from _detect(there, part, where, these)
            return found, device, notes
        except RuntimeError as error:
            if model.device.type == "cpu" or not out_of_memory(error):
                raise
            if model.device.type == "cuda":
                torch.cuda.empty_cache()
        finally:
            if there is not model:
                model.detector.to(model.device)
    raise UserError("there is not enough memory for this image, neither on the GPU nor on the CPU")


def _detect(
    model: LoadedModel, inputs: torch.Tensor, windows: torch.Tensor, limits: Limits
) -> Steps[list[Detections]]:
    yield Progress(0.05, "looking for nuclei")
    megapixels = len(inputs) * inputs.shape[-2] * inputs.shape[-1] / 1e6
    with room_on(model.device).measured(megapixels):
        steps = model.detector.detect(uploaded(inputs, model.device), limits, windows)
        while True:
            try:
                share = next(steps)
            except StopIteration as end:
                return downloaded(end.value)
            yield Progress(0.05 + 0.85 * share, "drawing masks" if share > 0.5 else "looking for nuclei")
