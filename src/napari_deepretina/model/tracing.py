"""Detection with every step kept: what the network considered, and why it went."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.batch import size_of
from napari_deepretina.model.detector import Detector
from napari_deepretina.model.matterport import boxes as mboxes
from napari_deepretina.model.matterport.network import MatterportRCNN, as_pixels
from napari_deepretina.model.network import Detecting
from napari_deepretina.model.pooling import Rows


@dataclass(frozen=True)
class Traced:
    """The way of one image through the network; boxes are (N, 4) xyxy float32 in pixels of the batch.

    Attributes
    ----------
    anchors, levels, objectness : (A,) anchors with the pyramid level (2…6) and the probability of an object.
    considered : (K,) anchors that became proposals: sure enough, and among the surest.
    refined : (K,) boxes of them, moved and clipped.
    regions : (P,) places in `considered` that NMS left, surest first.
    scores, classes : (P,) of the best class.
    moved : (P,) boxes moved once more and clipped.
    detections : (D,) places in `regions` that the second NMS left, surest first.
    masks : (D, S, S) float32 probability of the class.
    maps : C2…C5 and P2…P6 of the image, (C, H / stride, W / stride) each, float32.
    """

    anchors: NDArray[np.float32]
    levels: NDArray[np.int64]
    objectness: NDArray[np.float32]
    considered: NDArray[np.int64]
    refined: NDArray[np.float32]
    regions: NDArray[np.int64]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    moved: NDArray[np.float32]
    detections: NDArray[np.int64]
    masks: NDArray[np.float32]
    maps: dict[str, NDArray[np.float32]]


@torch.inference_mode()
def trace(network: Detecting, images: Tensor, limits: Limits, window: tuple[int, int, int, int]) -> Traced:
    """The steps of ``network.detect`` for one image, with the same result.

    Parameters
    ----------
    images : (1, 3, H, W), laid out as for detection; the network is in evaluation mode.
    window : (y0, x0, y1, x1) of the image in it.
    """
    if isinstance(network, MatterportRCNN):
        return _matterport(network, images, limits, window)
    return _torchvision(network, images, limits)


def _torchvision(network: Detector, images: Tensor, limits: Limits) -> Traced:
    size = size_of(images)
    body = network.pyramid.body(network.laid(images))
    features = network.maps(images)
    logits, _ = network.rate(features)
    counts = torch.tensor([one.shape[1] for one in logits])
    anchors = [
        network.anchors_at(k, torch.arange(len(one[0]), device=one.device), size, features[k].shape)
        for k, one in enumerate(logits)
    ]
    (first,) = network.consider(features, size, limits)
    rows = Rows.of(features[:4])
    second = network.answer(rows, first.proposals, 0, size, limits)
    boxes, classes = second.boxes[second.kept], second.classes[second.kept]
    masks = [boxes.new_zeros((0, network.mask_size, network.mask_size))]
    for some in torch.split(torch.arange(len(boxes), device=boxes.device), limits.masks_at_once):
        masks.append(network.shapes(rows, boxes[some], classes[some], 0))
    maps = {f"C{int(k) + 2}": m for k, m in body.items()}
    maps |= {f"P{k}": m for k, m in enumerate(features, start=2)}
    return _numbers(
        torch.cat(anchors), torch.repeat_interleave(torch.arange(len(counts)), counts) + 2,
        torch.cat(logits, 1)[0].sigmoid(), first.places, first.boxes, first.kept,
        second.scores, second.classes, second.boxes, second.kept, torch.cat(masks), maps,
    )  # fmt: skip


def _matterport(
    network: MatterportRCNN, images: Tensor, limits: Limits, window: tuple[int, int, int, int]
) -> Traced:
    shape = (int(images.shape[-2]), int(images.shape[-1]))
    stages = network.body(images)
    features = network.top_down(stages)
    logits, deltas = network.rpn(features)
    probability = logits[0].softmax(-1)
    anchors = network.anchors(shape, images.device)
    per_level = [len(network.architecture.aspect_ratios) * f.shape[-2] * f.shape[-1] for f in features]
    level = torch.repeat_interleave(torch.arange(2, 7), torch.tensor(per_level))
    considered, boxes, kept = network.thin(probability, deltas[0], shape, network.proposals)
    one = [f[0] for f in features[:4]]
    heads = network.box_head(mboxes.pooled(one, boxes[kept], shape, 7))
    inside = torch.from_numpy(mboxes.normalised(np.array(window), shape)).to(images.device)
    scores, classes = heads.logits.softmax(-1).max(dim=1)
    moved = network.move(boxes[kept], heads, classes, inside)
    final = network.select(moved, scores, classes, limits)
    masks = [boxes.new_zeros((0, 28, 28))]
    for some in torch.split(final, limits.masks_at_once):
        values = network.mask_head(mboxes.pooled(one, moved[some], shape, 14)).sigmoid()
        masks.append(values[torch.arange(len(some)), classes[some]])
    maps = {f"C{k}": m for k, m in enumerate(stages, start=2)}
    maps |= {f"P{k}": m for k, m in enumerate(features, start=2)}
    # background is what no detection is: its score is that of the surest object
    objects = heads.logits.softmax(-1)[:, 1:].max(dim=1).values
    return _numbers(
        as_pixels(anchors, shape), level, probability[:, 1], considered, as_pixels(boxes, shape), kept,
        objects, classes, as_pixels(moved, shape), final, torch.cat(masks), maps,
    )  # fmt: skip


def _numbers(*tensors: Any) -> Traced:
    *rest, maps = tensors
    arrays = [t.detach().cpu().numpy() for t in rest]
    numbers = [a.astype(np.float32) if a.dtype.kind == "f" else a.astype(np.int64) for a in arrays]
    names = [field.name for field in fields(Traced)]
    values: dict[str, Any] = dict(zip(names, numbers, strict=False))
    return Traced(**values, maps={name: m[0].float().cpu().numpy() for name, m in maps.items()})
