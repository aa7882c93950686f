"""What the two training stages should answer, computed without ever holding objects × pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

ANCHORS_AT_ONCE = 16_384


class Target:
    """Truth of one training image.

    A plain class on purpose: mixed-precision wrappers cast tuples and dataclasses of tensors to
    16 bits, and box coordinates beyond 256 pixels would not survive that.

    Attributes
    ----------
    boxes : (G, 4) float32, xyxy pixels.
    classes : (G,) int64, 1…C.
    ids : (G,) int64, the object's id in ``labels``.
    labels : (H, W) int32 label image.
    complete : whether every object of the image is in it.
    """

    def __init__(
        self, boxes: Tensor, classes: Tensor, ids: Tensor, labels: Tensor, complete: bool = True
    ) -> None:
        self.boxes, self.classes, self.ids, self.labels = boxes, classes, ids, labels
        self.complete = complete

    def to(self, device: torch.device) -> Target:
        """The same truth on another device."""
        boxes, classes, ids, labels = (
            tensor.to(device) for tensor in (self.boxes, self.classes, self.ids, self.labels)
        )
        return Target(boxes, classes, ids, labels, self.complete)


def match_anchors(
    boxes: Tensor, anchors: Tensor, *, high: float = 0.7, low: float = 0.3
) -> tuple[Tensor, Tensor]:
    """Assign anchors to true boxes, chunk by chunk.

    The rule is that of Faster R-CNN (Ren et al. 2015, section 3.1.2): an anchor is positive if
    its IoU with some box is at least `high` or if no other anchor covers a box better; negative
    if it is below `low` with every box; ignored otherwise. Peak memory is G × ANCHORS_AT_ONCE,
    whatever the number of anchors.

    Parameters
    ----------
    boxes : (G, 4) float32 xyxy, G ≥ 1.
    anchors : (A, 4) float32 xyxy.

    Returns
    -------
    matched : (A,) int64, index of the best box of each anchor.
    labels : (A,) float32, 1 positive, 0 negative, -1 ignored.
    """
    matched, best_iou, chunk_best = [], [], []
    chunks = torch.split(anchors, ANCHORS_AT_ONCE)
    for chunk in chunks:
        iou = box_iou(boxes, chunk)
        values, index = iou.max(dim=0)
        matched.append(index)
        best_iou.append(values)
        chunk_best.append(iou.max(dim=1).values)
    per_chunk = torch.stack(chunk_best, dim=1)  # (G, number of chunks)
    best_of_box = per_chunk.max(dim=1).values
    iou_of_anchor = torch.cat(best_iou)
    labels = torch.full_like(iou_of_anchor, -1.0)
    labels[iou_of_anchor < low] = 0.0
    labels[iou_of_anchor >= high] = 1.0
    # Each box's best anchors (ties included) lie in few chunks: only those are looked at again.
    for number, chunk in enumerate(chunks):
        here = torch.nonzero((per_chunk[:, number] == best_of_box) & (best_of_box > 0)).flatten()
        if len(here):
            best = (box_iou(boxes[here], chunk) == best_of_box[here, None]).any(dim=0)
            start = number * ANCHORS_AT_ONCE
            labels[start : start + len(chunk)][best] = 1.0
    return torch.cat(matched), labels


def mask_targets(labels: Tensor, ids: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Sample objects from the label image on a regular grid over regions.

    Parameters
    ----------
    labels : (H, W) integer label image.
    ids : (P,) id of the object each region belongs to.
    boxes : (P, 4) float xyxy pixels; parts outside the image read its border pixels.
    size : S, samples a side; sample (i, j) sits in the middle of cell (i, j) of an S × S grid.

    Returns
    -------
    (P, S, S) float32 of zeros and ones. Memory is P · S², independent of H, W and of the number
    of objects in the image.
    """
    height, width = labels.shape
    steps = (torch.arange(size, device=boxes.device, dtype=torch.float32) + 0.5) / size
    x0, y0, x1, y1 = boxes.float().unbind(1)
    columns = (x0[:, None] + steps * (x1 - x0)[:, None]).floor().long().clamp_(0, width - 1)
    rows = (y0[:, None] + steps * (y1 - y0)[:, None]).floor().long().clamp_(0, height - 1)
    sampled = labels[rows[:, :, None], columns[:, None, :]]
    return (sampled == ids[:, None, None]).float()
