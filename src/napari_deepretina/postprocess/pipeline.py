"""RawInstances → Instances."""

from __future__ import annotations

import numpy as np

from napari_deepretina.instances import Instances, RawInstances
from napari_deepretina.postprocess.masks import dilate, place_masks
from napari_deepretina.postprocess.nms import nms
from napari_deepretina.postprocess.overlaps import resolve_overlaps
from napari_deepretina.postprocess.settings import PostprocessSettings


def postprocess(raw: RawInstances, settings: PostprocessSettings | None = None) -> Instances:
    """Apply a person's settings to what the network found.

    Score floor, box NMS (classes compete with each other), mask threshold, dilation, overlaps,
    smallest area, in this order.

    Returns
    -------
    Instances
        Disjoint, highest score first; ``to_labels()`` paints them.
    """
    settings = settings or PostprocessSettings()
    raw = raw[raw.scores >= settings.score]
    raw = raw[nms(raw.boxes, raw.scores, settings.nms)]
    frames, masks = place_masks(raw.masks, raw.boxes, raw.shape, settings.mask_threshold)
    for i, mask in enumerate(masks):
        frames[i], masks[i] = dilate(frames[i], mask, settings.dilation, raw.shape)
    placed = Instances(frames, tuple(masks), raw.scores, raw.classes.astype(np.int32, copy=False), raw.shape)
    return resolve_overlaps(placed, max_lost=settings.max_lost, min_area=settings.min_area)[0]
