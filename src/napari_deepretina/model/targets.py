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
    labels : (H, W) int32 label image, or (K, H, W) where objects overlap: each is whole in one of the planes.
    complete : whether every object of the image is in it.
    crowds : (N, 4) float32, xyxy pixels of regions that hold many objects: nothing in them is learnt as
        background.
    active : (C + 1,) bool, the classes that the image's data set tells apart, background first; None where
        it tells all.
    seed : of the draws of anchors and regions, so that they depend on the image alone and not on the process
        or the batch that it is in; None takes torch's global generator.
    """

    def __init__(
        self,
        boxes: Tensor,
        classes: Tensor,
        ids: Tensor,
        labels: Tensor,
        complete: bool = True,
        *,
        crowds: Tensor | None = None,
        active: Tensor | None = None,
        seed: int | None = None,
    ) -> None:
        self.boxes, self.classes, self.ids, self.labels = boxes, classes, ids, labels
        self.complete = complete
        self.crowds = boxes.new_zeros((0, 4)) if crowds is None else crowds
        self.active = active
        self.seed = seed

    def to(self, device: torch.device) -> Target:
        """The same truth on another device."""
        boxes, classes, ids, labels = (
            tensor.to(device) for tensor in (self.boxes, self.classes, self.ids, self.labels)
        )
        active = None if self.active is None else self.active.to(device)
        crowds = self.crowds.to(device)
        return Target(
            boxes, classes, ids, labels, self.complete, crowds=crowds, active=active, seed=self.seed
        )

    def chance(self) -> Chance:
        """What draws the anchors and regions to learn from: the same for the same image, on any device."""
        return Chance(self.seed)

    def counts(self, logits: Tensor) -> Tensor:
        """(R,) float32, 1 for regions whose class is learnt from, given the network's (R, C + 1) answer.

        As in Matterport's, a region that the network takes for something that the image's data set does not
        annotate may well be that: it is left out.
        """
        if self.active is None:
            return torch.ones(len(logits), device=logits.device)
        counted: Tensor = self.active[logits.argmax(dim=1)].float()
        return counted


def typical_count(count: int, device: torch.device, *, shared: bool) -> float:
    """What sums over a batch are divided by, at least 1: its count; with `shared`, the mean over processes.

    Gradients are averaged over the processes of a run, so that the second makes theirs those of the whole
    batch, however unevenly its objects are spread. All processes must ask.
    """
    if not (shared and torch.distributed.is_available() and torch.distributed.is_initialized()):
        return float(max(1, count))
    told = torch.tensor(float(count), device=device)
    torch.distributed.all_reduce(told)
    return max(1.0, told.item()) / torch.distributed.get_world_size()


class Chance:
    """Random orders from a generator of their own, on the CPU, so that every device draws the same."""

    def __init__(self, seed: int | None) -> None:
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def some(self, places: Tensor, most: int) -> Tensor:
        """At most so many of (N,) places, at random, in random order."""
        order = torch.randperm(len(places), generator=self._generator)
        return places[order[: max(0, most)].to(places.device)]

    def balanced(self, labels: Tensor, count: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
        """Masks (N,) of positive (1 and above) and negative (0) ones to learn from, of (N,) labels.

        At most `count` in all, of them at most `positive_fraction` positive; as torchvision's sampler.
        """
        positive = self.some(torch.nonzero(labels >= 1).flatten(), int(count * positive_fraction))
        negative = self.some(torch.nonzero(labels == 0).flatten(), count - len(positive))
        masks = [torch.zeros(len(labels), dtype=torch.uint8, device=labels.device) for _ in range(2)]
        masks[0][positive] = 1
        masks[1][negative] = 1
        return masks[0], masks[1]


CROWDED = 0.001
"""IoU with a crowd from which on a region is not learnt as background; Matterport's."""


def in_crowds(regions: Tensor, crowds: Tensor) -> Tensor:
    """(R,) bool: which (R, 4) regions overlap one of the (N, 4) crowds, xyxy or yxyx alike."""
    if not len(crowds) or not len(regions):
        return torch.zeros(len(regions), dtype=torch.bool, device=regions.device)
    overlap: Tensor = box_iou(crowds.to(regions), regions).amax(dim=0)
    return overlap >= CROWDED


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
    labels : (H, W) integer label image, or (K, H, W) where objects overlap.
    ids : (P,) id of the object each region belongs to.
    boxes : (P, 4) float xyxy pixels; parts outside the image read its border pixels.
    size : S, samples a side; sample (i, j) sits in the middle of cell (i, j) of an S × S grid.

    Returns
    -------
    (P, S, S) float32 of zeros and ones. Memory is K · P · S², independent of H, W and of the number
    of objects in the image.
    """
    planes = labels if labels.ndim == 3 else labels[None]
    height, width = planes.shape[1:]
    steps = (torch.arange(size, device=boxes.device, dtype=torch.float32) + 0.5) / size
    x0, y0, x1, y1 = boxes.float().unbind(1)
    columns = (x0[:, None] + steps * (x1 - x0)[:, None]).floor().long().clamp_(0, width - 1)
    rows = (y0[:, None] + steps * (y1 - y0)[:, None]).floor().long().clamp_(0, height - 1)
    sampled = planes[:, rows[:, :, None], columns[:, None, :]]
    return (sampled == ids[:, None, None]).any(dim=0).float()
