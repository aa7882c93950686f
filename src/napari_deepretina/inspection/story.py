"""The story of one nucleus that was found, and of one that was missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.inspection.steps import Inspection

FITS = 0.5
"""IoU from which a box counts as one for the nucleus."""
ANCHOR_FITS = 0.3
"""The same for anchors, which are only the beginning: below it training would call them background."""


@dataclass(frozen=True)
class Story:
    """How a nucleus was found.

    Attributes
    ----------
    label : its id.
    numbers : ``anchor``, ``proposal``, ``region``, ``detection`` (places in the steps), ``level``,
        ``objectness``, ``head score``, ``score`` (the same but where weights rescore), ``class``, ``area``.
    boxes : step → (4,) xyxy in pixels of the image.
    mask : (S, S) float32 probability.
    """

    label: int
    numbers: dict[str, Any]
    boxes: dict[str, NDArray[np.float32]]
    mask: NDArray[np.float32]

    @property
    def sentence(self) -> str:
        """The story in words."""
        n, (before, after) = self.numbers, (self.boxes["anchor"], self.boxes["final"])
        alone, together = (f"{n[key]:.2f}" for key in ("head score", "score"))
        beside = f", {together} beside the others" if together != alone else ""
        return (
            f"Nucleus {self.label}: anchor {n['anchor']} of {_size(before)} on P{n['level']} was held for an "
            f"object with {n['objectness']:.2f}; refined twice it became a box of {_size(after)}, scored "
            f"{alone} as {n['class']}{beside}; its mask covers {n['area']} pixels."
        )


@dataclass(frozen=True)
class Missed:
    """Where a nucleus was lost.

    Attributes
    ----------
    step : ``found``, ``no anchor``, ``rpn score``, ``refinement``, ``rpn nms``, ``head score``,
        ``context``, ``nms``, ``mask`` or ``area``.
    sentence : why, in words.
    box : (4,) xyxy of the best candidate of the step it was lost at, or of the place itself.
    """

    step: str
    sentence: str
    box: NDArray[np.float32]


def story_of(inspection: Inspection, label: int) -> Story:
    """How instance `label` (1…N) came about."""
    t, instances = inspection.traced, inspection.instances
    place = int(instances.sources[label - 1])
    region = int(t.detections[place])
    considered = int(t.regions[region])
    anchor = int(t.considered[considered])
    x0, y0, x1, y1 = instances.tight_boxes()[label - 1].tolist()
    return Story(
        label,
        {
            "anchor": anchor, "proposal": considered, "region": region, "detection": place,
            "level": int(t.levels[anchor]), "objectness": float(t.objectness[anchor]),
            "head score": float(t.scores[region]), "score": float(inspection.raw.scores[place]),
            "class": ("background", *inspection.class_names)[int(t.classes[region])],
            "area": int(instances.areas[label - 1]),
        },
        {
            "anchor": t.anchors[anchor],
            "proposal": t.refined[considered],
            "final": t.moved[region],
            "mask": np.array([x0, y0, x1, y1], np.float32),
        },
        t.masks[place],
    )  # fmt: skip


def why_missed(inspection: Inspection, y: int, x: int, truth: NDArray[np.integer] | None = None) -> Missed:
    """At which step the nucleus at a pixel was lost.

    Parameters
    ----------
    y, x : a pixel of it.
    truth : (H, W) label image; with it, candidates are boxes that fit the true one (IoU 0.5), without it,
        boxes around the pixel whose centre is near it.
    """
    t, settings = inspection.traced, inspection.settings
    label = int(inspection.labels[y, x])
    if label:
        box = inspection.instances.boxes[label - 1].astype(np.float32)
        return Missed("found", f"Nothing was missed here: this is nucleus {label}.", box)
    fit = _Fit(y, x, truth)
    here = fit.box if fit.box is not None else np.array([x, y, x + 1, y + 1], np.float32)

    near = fit.of(t.anchors, ANCHOR_FITS)
    if not len(near):
        return Missed("no anchor", _no_anchor(inspection, fit), here)
    candidates = fit.of(t.refined, FITS)
    if not len(candidates):
        return _not_proposed(inspection, near, here)
    kept = np.flatnonzero(np.isin(t.regions, candidates))
    if not len(kept):
        best = candidates[np.argmax(t.objectness[t.considered[candidates]])]
        return Missed(
            "rpn nms",
            "A proposal was there, but a surer one that overlaps it by more than "
            f"{inspection.limits.proposal_nms:g} took its place, and that one does not fit.",
            t.refined[best],
        )
    best = int(kept[np.argmax(t.scores[kept])])
    if t.scores[best] < inspection.head_floor:
        remedy = (
            f"what it gives less than {inspection.head_floor:g} is not looked at further."
            if inspection.rescored
            else f"the score threshold is {settings.score:g}: lower it to see this nucleus."
        )
        return Missed(
            "head score",
            f"A box was proposed here, but the head gave it {t.scores[best]:.2f}, and {remedy}",
            t.moved[best],
        )
    return _lost_at_the_end(inspection, kept, best)


def _not_proposed(inspection: Inspection, near: NDArray[np.int64], here: NDArray[np.float32]) -> Missed:
    t = inspection.traced
    surest = int(near[np.argmax(t.objectness[near])])
    if t.objectness[surest] < inspection.limits.objectness or surest not in set(t.considered.tolist()):
        return Missed(
            "rpn score",
            "Anchors fit here, but the surest of them was held for an object with "
            f"{t.objectness[surest]:.3f} only; from {inspection.limits.objectness:g} on, and among the "
            "surest, it would be looked at again.",
            t.anchors[surest],
        )
    place = int(np.flatnonzero(t.considered == surest)[0])
    return Missed(
        "refinement",
        "Anchors fit here, but their refined boxes do not: the network moved them to something else.",
        t.refined[place],
    )


def _lost_at_the_end(inspection: Inspection, kept: NDArray[np.int64], best: int) -> Missed:
    """Sure enough, and yet not in the result: thinned out, or its mask went elsewhere."""
    t, settings, raw = inspection.traced, inspection.settings, inspection.raw
    sure = kept[t.scores[kept] >= inspection.head_floor]
    places = np.flatnonzero(np.isin(t.detections, sure))
    if inspection.rescored and len(places) and raw.scores[places].max() < settings.score:
        place = int(places[np.argmax(raw.scores[places])])
        return Missed(
            "context",
            f"A box was found here with {t.scores[t.detections[place]]:.2f}, but by its size and brightness "
            f"beside the image's other nuclei its score is {raw.scores[place]:.2f}, and the threshold is "
            f"{settings.score:g}: lower it to see this nucleus.",
            raw.boxes[place],
        )
    used = set(inspection.instances.sources.tolist())
    for place in places.tolist():
        if place in used:
            label = 1 + inspection.instances.sources.tolist().index(place)
            return Missed(
                "mask",
                f"A box was found and is nucleus {label}, but its mask does not cover this pixel: a lower "
                "mask threshold or a dilation makes masks larger.",
                raw.boxes[place],
            )
    rivals = raw.boxes[sorted(used)]
    overlap = _iou(t.moved[best], rivals) if len(rivals) else np.zeros(0)
    limit = min(settings.nms, inspection.limits.nms)
    if not len(places) or (len(overlap) and overlap.max() > settings.nms):
        winner = int(np.argmax(overlap)) if len(overlap) else -1
        label = 1 + inspection.instances.sources.tolist().index(sorted(used)[winner]) if winner >= 0 else 0
        share = f" ({overlap[winner]:.2f} with nucleus {label})" if winner >= 0 else ""
        return Missed(
            "nms",
            f"A box was found here with {t.scores[best]:.2f}, but it overlaps a surer one by more than "
            f"{limit:g}{share}: raise the overlap that is allowed.",
            t.moved[best],
        )
    return Missed(
        "area",
        f"A box was found here with {t.scores[best]:.2f}, but too little of its mask was left after the "
        f"overlaps went, or it is smaller than {settings.min_area} pixels.",
        raw.boxes[places[0]],
    )


def _no_anchor(inspection: Inspection, fit: _Fit) -> str:
    zoom = inspection.plan.scaled[0] / inspection.plan.shape[0]
    what = ""
    if fit.box is not None:
        width, height = ((fit.box[2:] - fit.box[:2]) * zoom).tolist()
        what = f": it has {width:.0f} × {height:.0f} pixels where the network looks"
    sides = sorted({round(float(np.sqrt(a))) for a in _areas(inspection.traced.anchors) * zoom**2})
    return (
        f"No anchor fits this nucleus{what}, and the anchors' sides go from {sides[0]} to {sides[-1]}. "
        "Give the expected diameter, so that the image is scaled to what the network knows."
    )


class _Fit:
    """Which boxes are about a place."""

    def __init__(self, y: int, x: int, truth: NDArray[np.integer] | None) -> None:
        self.point = np.array([x + 0.5, y + 0.5])
        self.box: NDArray[np.float32] | None = None
        if truth is not None and truth[y, x]:
            rows, columns = np.nonzero(truth == truth[y, x])
            self.box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)

    def of(self, boxes: NDArray[np.float32], iou: float) -> NDArray[np.int64]:
        """Places of the boxes that fit."""
        if self.box is not None:
            return np.flatnonzero(_iou(self.box, boxes) >= iou)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        half = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6) / 2
        return np.flatnonzero((np.abs(self.point - centre) <= half / 2).all(axis=1))


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return np.asarray(sides[:, 0] * sides[:, 1])


def _iou(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of one box with many."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    union = _areas(box[None])[0] + _areas(boxes) - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float64)


def _size(box: NDArray[np.float32]) -> str:
    width, height = (box[2:] - box[:2]).tolist()
    return f"{width:.0f} × {height:.0f} pixels"
