"""Run the network over an image, in steps that can be shown and cancelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from napari_deepretina.data.normalise import as_rgb, normalise
from napari_deepretina.errors import UserError
from napari_deepretina.inference.plan import Plan, make_plan
from napari_deepretina.inference.steps import Progress, Steps
from napari_deepretina.instances import RawInstances
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.regions import Detections
from napari_deepretina.model.weights import LoadedModel


@dataclass
class Prediction:
    """Raw detections with what really ran."""

    raw: RawInstances
    plan: Plan
    device: torch.device
    notes: list[str]
    """What did not go as asked, e.g. that a GPU ran out of memory and the CPU took over."""


def predict(
    model: LoadedModel,
    image: NDArray[Any],
    *,
    diameter: float | None = None,
    limits: Limits | None = None,
) -> Steps[Prediction]:
    """Find raw instances in one image.

    Parameters
    ----------
    model : from `load_model`; it may be moved to the CPU if its device runs out of memory.
    image : (H, W) or (H, W, 1|3|4), any real dtype; NaN and infinite pixels count as dark.
    diameter : expected nucleus diameter in pixels; by default images are only scaled up so that
        their short side has 512 pixels.

    Returns
    -------
    Prediction, through the generator's return value.
    """
    shape = (as_rgb(image).shape[0], image.shape[1])
    plan = make_plan(
        shape,
        model.info.architecture,
        trained_diameter=model.info.diameter,
        diameter=diameter,
    )
    yield Progress(0.0, "normalising")
    batch = lay_out(image, plan)
    found, device, notes = yield from _detect_somehow(model, batch, limits or Limits())
    raw = to_raw(found, plan, plan.fingerprint(model.sha256))
    return Prediction(raw, plan, device, notes)


def lay_out(image: NDArray[Any], plan: Plan) -> torch.Tensor:
    """Normalise, scale and pad one image to (1, 3, H, W) float32 as its plan says."""
    pixels = torch.from_numpy(normalise(image).transpose(2, 0, 1))[None]
    if plan.scaled != plan.shape:
        pixels = F.interpolate(
            pixels, size=plan.scaled, mode="bilinear", align_corners=False, antialias=plan.scale < 1
        )
    below, right = plan.padded[0] - plan.scaled[0], plan.padded[1] - plan.scaled[1]
    return F.pad(pixels, (0, right, 0, below))


def to_raw(found: Detections, plan: Plan, fingerprint: str) -> RawInstances:
    """Detections in the image's own pixels; what lies in the padding is left out."""
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
        fingerprint=fingerprint,
    )


def _detect_somehow(
    model: LoadedModel, batch: torch.Tensor, limits: Limits
) -> Steps[tuple[Detections, torch.device, list[str]]]:
    """Detect on the model's device; short of memory, in smaller batches, then on the CPU."""
    notes: list[str] = []
    attempts = [
        (model.device, limits, ""),
        (model.device, limits.model_copy(update={"masks_at_once": 16}), "smaller batches were tried"),
        (torch.device("cpu"), limits, "the CPU took over"),
    ]
    for device, these, what in attempts:
        if what:
            notes.append(f"{model.device} ran out of memory; {what}")
            yield Progress(0.05, notes[-1])
        try:
            found = yield from _detect(model.to(device), batch, these)
            return found, device, notes
        except RuntimeError as error:
            if model.device.type == "cpu" or not _out_of_memory(error):
                raise
            if model.device.type == "cuda":
                torch.cuda.empty_cache()
        finally:
            model.to(model.device)
    raise UserError("there is not enough memory for this image, neither on the GPU nor on the CPU")


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


def _detect(model: LoadedModel, batch: torch.Tensor, limits: Limits) -> Steps[Detections]:
    yield Progress(0.05, "looking for nuclei")
    steps = model.network.detect(batch.to(model.device), limits)
    while True:
        try:
            share = next(steps)
        except StopIteration as end:
            found: list[Detections] = end.value
            return found[0]
        yield Progress(0.05 + 0.85 * share, "drawing masks" if share > 0.5 else "looking for nuclei")
