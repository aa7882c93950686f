"""Detection of one image step by step, in the image's own pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_deepretina.data.channels import check_image
from napari_deepretina.data.normalise import eight_bit, normalise
from napari_deepretina.errors import UserError
from napari_deepretina.inference import matterport
from napari_deepretina.inference.plan import Plan, make_plan
from napari_deepretina.inference.predict import lay_out, to_raw
from napari_deepretina.inference.reading import read_and_fitted
from napari_deepretina.inference.settings import SegmentSettings
from napari_deepretina.inference.steps import drain
from napari_deepretina.instances import Instances, RawInstances
from napari_deepretina.instances.labels import LabelImage
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.regions import Detections
from napari_deepretina.model.rescoring import evidence_of
from napari_deepretina.model.tracing import Traced, trace
from napari_deepretina.model.weights import LoadedModel
from napari_deepretina.postprocess import PostprocessSettings, postprocess
from napari_deepretina.postprocess.masks import frames_of, place_masks, sample_masks

MOST_MEGAPIXELS = 16.0
"""Where the network looks; feature maps of more would fill the memory of a laptop."""


@dataclass(frozen=True)
class Inspection:
    """All steps of one image.

    Attributes
    ----------
    traced : the network's steps; boxes in pixels of the *image*, xyxy, which they may leave.
    raw : detections, one for each of ``traced.detections``.
    instances : what post-processing makes of them; ``sources`` are places in `raw`.
    labels : (H, W) int32; id i is ``instances[i - 1]``.
    plan, settings, class_names, limits : what decided it.
    rescored : whether scores of `raw` are those in the light of the other detections; ``traced.scores`` are
        the head's.
    """

    traced: Traced
    raw: RawInstances
    instances: Instances
    labels: LabelImage
    plan: Plan
    settings: PostprocessSettings
    class_names: tuple[str, ...]
    limits: Limits
    rescored: bool = False

    @property
    def head_floor(self) -> float:
        """What the head's score must reach for a region to go on."""
        return self.limits.score if self.rescored else self.settings.score

    def boxes(self, step: str, most: int = 500) -> dict[str, NDArray[Any]]:
        """Boxes of a step, the surest `most` of them, as columns.

        Returns
        -------
        ``box`` (N, 4) xyxy in pixels of the image, ``index`` (of the anchor, proposal, region or detection),
        ``score``, ``level`` (pyramid level of the anchor behind it) and, from the head on, ``class``.
        """
        t = self.traced
        anchor_of_region = t.considered[t.regions]
        if step == "anchors":
            return self._columns(t.anchors, t.objectness, t.levels, _sample(t.levels, t.objectness, most))
        if step == "proposals":
            best = np.argsort(-t.objectness[t.considered], kind="stable")[:most]
            return self._columns(t.anchors[t.considered], t.objectness[t.considered],
                                 t.levels[t.considered], best)  # fmt: skip
        if step == "refined":
            best = np.argsort(-t.objectness[t.considered], kind="stable")[:most]
            return self._columns(t.refined, t.objectness[t.considered], t.levels[t.considered], best)
        if step == "after NMS":
            return self._columns(t.refined[t.regions], t.objectness[anchor_of_region],
                                 t.levels[anchor_of_region], np.arange(len(t.regions))[:most])  # fmt: skip
        if step == "head scores":
            best = np.argsort(-t.scores, kind="stable")[:most]
            columns = self._columns(t.refined[t.regions], t.scores, t.levels[anchor_of_region], best)
            return columns | {"class": self._names(t.classes[best])}
        final = t.detections[:most]
        columns = self._columns(t.moved, t.scores, t.levels[anchor_of_region], final)
        columns |= {"index": np.arange(len(final)), "score": self.raw.scores[:most]}
        return columns | {"class": self._names(t.classes[final])}

    def _columns(
        self, boxes: NDArray[Any], scores: NDArray[Any], levels: NDArray[Any], chosen: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        return {
            "box": boxes[chosen], "index": chosen, "score": scores[chosen], "level": levels[chosen],
        }  # fmt: skip

    def _names(self, classes: NDArray[np.int64]) -> NDArray[Any]:
        return np.array(["background", *self.class_names], dtype=object)[classes]

    def soft_masks(self) -> NDArray[np.float32]:
        """(H, W) the highest mask probability at each pixel, each mask in its box at its own 28 × 28."""
        picture = np.zeros(self.raw.shape, np.float32)
        frames = frames_of(self.raw.boxes, self.raw.shape)
        coarse = np.asarray(self.raw.masks)
        for some, values in sample_masks(coarse, self.raw.boxes, frames, fading=self.raw.fading):
            for k, place in enumerate(some.tolist()):
                x0, y0, x1, y1 = frames[place].tolist()
                window = picture[y0:y1, x0:x1]
                np.maximum(window, values[k, : y1 - y0, : x1 - x0] / 255, out=window)
        return picture

    def pasted(self) -> NDArray[np.int32]:
        """(H, W) masks of all detections over the score threshold, the surest on top, before overlaps go."""
        picture = np.zeros(self.raw.shape, np.int32)
        frames, masks = place_masks(
            self.raw.masks, self.raw.boxes, self.raw.shape, self.settings.mask_threshold,
            fading=self.raw.fading,
        )  # fmt: skip
        for place in np.argsort(self.raw.scores, kind="stable").tolist():
            if self.raw.scores[place] >= self.settings.score:
                x0, y0, x1, y1 = frames[place].tolist()
                picture[y0:y1, x0:x1][masks[place]] = place + 1
        return picture

    def activation(self, name: str) -> tuple[NDArray[np.float32], tuple[float, float], tuple[float, float]]:
        """(C, h, w) feature map, and scale and translation (y, x) that lay it over the image.

        A cell's centre is where the anchors of that cell have theirs.
        """
        maps = self.traced.maps[name]
        stride = 2.0 ** int(name[1:])
        zoom = _zoom(self.plan)
        scale = (stride / zoom[0], stride / zoom[1])
        offset = tuple(-o / z - 0.5 for o, z in zip(self.plan.offset, zoom, strict=True))
        return maps, scale, (offset[0], offset[1])


def inspect_image(
    model: LoadedModel,
    image: NDArray[Any],
    settings: PostprocessSettings | None = None,
    *,
    diameter: float | None = None,
    limits: Limits | None = None,
) -> Inspection:
    """Detect once, keeping every step.

    Parameters
    ----------
    image : (H, W) or (H, W, 1|3|4).
    settings : of post-processing; by default what the weights recommend.
    diameter : expected nucleus diameter in pixels.

    Raises
    ------
    UserError
        If the image is none, or too large to keep every step of.
    """
    settings = settings or PostprocessSettings.model_validate(dict(model.info.postprocess))
    architecture = model.info.architecture
    shape = check_image(image)
    plan = make_plan(shape, architecture, trained_diameter=model.info.diameter, diameter=diameter)
    if plan.megapixels > MOST_MEGAPIXELS:
        raise UserError(
            f"keeping every step of {plan.megapixels:.0f} megapixels takes too much memory: crop the image, "
            f"at most {MOST_MEGAPIXELS:.0f} are inspected"
        )
    image = np.asarray(image)
    original = architecture.is_matterport
    asked = SegmentSettings(**settings.model_dump(), diameter=diameter)
    reading, model = drain(read_and_fitted(model, image, asked))
    limits, rescoring = model.limits(limits), model.info.rescoring
    pixels: NDArray[Any] = eight_bit(image, reading) if original else normalise(image, reading)
    laid = matterport.lay_out(pixels, plan) if original else lay_out(pixels, plan)
    traced = trace(model.detector, laid.to(model.device), limits, plan.window)
    found = Detections(
        torch.from_numpy(traced.moved[traced.detections]).double(),
        torch.from_numpy(traced.scores[traced.detections]),
        torch.from_numpy(traced.classes[traced.detections]),
        torch.from_numpy(traced.masks * np.float32(255)),
    )
    if not original:
        found = Detections(found.boxes.float(), found.scores, found.classes,
                           found.masks.round().to(torch.uint8))  # fmt: skip
    raw, kept = _raw(found, plan, original=original, limits=limits)
    if rescoring:
        raw = replace(raw, scores=rescoring.scores(evidence_of(raw, pixels)))
    instances = postprocess(raw, settings)
    here = _in_image(traced, plan, kept)
    return Inspection(
        here, raw, instances, instances.to_labels(), plan, settings, architecture.classes, limits,
        rescored=rescoring is not None,
    )  # fmt: skip


def _raw(
    found: Detections, plan: Plan, *, original: bool, limits: Limits
) -> tuple[RawInstances, NDArray[np.int64]]:
    """Raw instances, and which detections they are: those in the padding go."""
    numbered = Detections(found.boxes, found.scores, torch.arange(len(found.scores)), found.masks)
    unlay = matterport.to_raw if original else to_raw
    kept = unlay(numbered, plan).classes.astype(np.int64)
    return replace(unlay(found, plan), thinned=limits.nms), kept


def _zoom(plan: Plan) -> tuple[float, float]:
    return plan.scaled[0] / plan.shape[0], plan.scaled[1] / plan.shape[1]


def _in_image(traced: Traced, plan: Plan, kept: NDArray[np.int64]) -> Traced:
    """The same in pixels of the image, without the detections that lay in the padding."""
    zoom = np.array(_zoom(plan)[::-1] * 2, np.float32)
    offset = np.array(plan.offset[::-1] * 2, np.float32)

    def moved(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((boxes - offset) / zoom).astype(np.float32)

    return replace(
        traced,
        anchors=moved(traced.anchors),
        refined=moved(traced.refined),
        moved=moved(traced.moved),
        detections=traced.detections[kept],
        masks=traced.masks[kept],
    )


def _sample(levels: NDArray[np.int64], scores: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """The surest anchors of each level, as many of every one."""
    share = max(1, most // len(np.unique(levels)))
    chosen = []
    for level in np.unique(levels).tolist():
        here = np.flatnonzero(levels == level)
        chosen.append(here[np.argsort(-scores[here], kind="stable")[:share]])
    return np.concatenate(chosen)
