"""Images before, and detections behind, Matterport's network, as the original lays and unlays them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_deepretina.inference.molding import scaled
from napari_deepretina.inference.plan import Plan
from napari_deepretina.instances import RawInstances
from napari_deepretina.model.matterport.boxes import in_pixels, normalised
from napari_deepretina.model.regions import Detections


def lay_out(pixels: NDArray[Any], plan: Plan) -> torch.Tensor:
    """Resize and pad one turned (H, W, 3) image of 0…255 to (1, 3, H', W') float32 in 0…1.

    Like the original, a view is resized first and then once more by the network's own rule; 8-bit values
    are cut off, not rounded; the padding is black.
    """
    dtype = pixels.dtype
    if plan.viewed != pixels.shape[:2]:
        pixels, dtype = scaled(pixels, plan.viewed), np.dtype(float)
    if plan.scaled != plan.viewed:
        pixels = scaled(pixels, plan.scaled).astype(dtype)
    y0, x0, y1, x1 = plan.window
    laid = np.zeros((*plan.padded, 3), np.float32)
    laid[y0:y1, x0:x1] = pixels / np.float64(255)
    return torch.from_numpy(laid.transpose(2, 0, 1)[None].copy())


def to_raw(found: Detections, plan: Plan) -> RawInstances:
    """Detections in the pixels of the turned image; boxes are whole pixels of the view, as the original's."""
    corners = found.boxes.cpu().numpy()[:, [1, 0, 3, 2]]
    boxes = normalised(corners, plan.padded)
    window = normalised(np.array(plan.window), plan.padded)
    shift = window[[0, 1, 0, 1]]
    extent = np.array([window[2] - window[0], window[3] - window[1]] * 2, np.float32)
    pixels = in_pixels(np.divide(boxes - shift, extent), plan.viewed)
    sides = pixels[:, 2:] - pixels[:, :2]
    keep = sides[:, 0] * sides[:, 1] > 0
    ratio = np.array(plan.shape, float) / plan.viewed
    xyxy = (pixels[keep] * np.tile(ratio, 2))[:, [1, 0, 3, 2]]
    n = int(keep.sum())
    return RawInstances(
        boxes=xyxy.astype(np.float32),
        scores=found.scores.float().cpu().numpy()[keep],
        masks=found.masks.cpu().numpy()[keep],
        classes=found.classes.cpu().numpy().astype(np.int32)[keep],
        views=np.zeros(n, np.int32),
        tiles=np.zeros(n, np.int32),
        shape=plan.shape,
        fading=True,
    )
