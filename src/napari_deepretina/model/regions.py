"""The second stage: what is in each proposed region, where exactly, and of which shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import box_iou

from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.pooling import Rows
from napari_deepretina.model.targets import Chance, Target, in_crowds, mask_targets, typical_count

LEVELS = ("0", "1", "2", "3")
FORGIVEN = 0.3
"""Weight of a confident detection away from all labels, where some nuclei are unlabelled."""
APART = 0.1
"""IoU with every labelled nucleus up to which a region lies away from all of them."""


def region_weights(regions: Tensor, logits: Tensor, target: Target) -> Tensor:
    """How much the class of each region counts in the loss.

    Everything counts in full, but for classes that the image's data set does not annotate (see
    `Target.counts`); and in an image of which some nuclei are unlabelled, a region that the network holds for
    a nucleus, and that touches no labelled one, may well be one.

    Parameters
    ----------
    regions : (R, 4) xyxy pixels.
    logits : (R, classes) the network's answer, 0 background.

    Returns
    -------
    (R,) float32 of 1, FORGIVEN and 0.
    """
    weights = target.counts(logits)
    if target.complete or not len(regions):
        return weights
    confident = logits.softmax(-1)[:, 0] < 0.5
    apart = torch.ones_like(confident)
    if len(target.boxes):
        apart = box_iou(target.boxes, regions).amax(dim=0) <= APART
    weights[confident & apart] *= FORGIVEN
    return weights


@dataclass(frozen=True)
class Detections:
    """Raw answer for one image: (N, 4) xyxy boxes, (N,) scores and classes, (N, S, S) uint8."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    masks: Tensor


class RegionHeads(nn.Module):
    """Box and mask heads with their losses."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        channels = architecture.fpn_channels
        self.samples, self.canonical_size = architecture.roi_samples, architecture.roi_canonical_size
        self.box_head = TwoMLPHead(channels * 7 * 7, architecture.box_units)
        self.box_predictor = FastRCNNPredictor(architecture.box_units, architecture.num_classes)
        self.mask_head = MaskRCNNHeads(
            channels,
            (architecture.mask_channels,) * architecture.mask_convs,
            1,
            norm_layer=nn.BatchNorm2d,
        )
        self.mask_predictor = MaskRCNNPredictor(
            architecture.mask_channels, architecture.mask_channels, architecture.num_classes
        )
        self.mask_size = 28
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.regions_per_image = 128
        self.positive_fraction = 0.33
        self.masks_per_image = 0

    def losses(
        self,
        features: Mapping[str, Tensor],
        proposals: list[Tensor],
        targets: list[Target],
        chances: list[Chance],
    ) -> dict[str, Tensor]:
        """Class, box and mask loss of a batch, each a scalar float32; `chances` draw the regions."""
        rows = Rows.of([features[level] for level in LEVELS])
        regions, classes, matched = self._sample(proposals, targets, chances)
        logits, deltas = self._boxes(rows, regions)
        labels = torch.cat(classes)
        positive = torch.nonzero(labels > 0).flatten()
        truth = torch.cat(
            [t.boxes[m] if len(t.boxes) else r for t, m, r in zip(targets, matched, regions, strict=True)]
        )
        wanted = self.coder.encode_single(truth, torch.cat(regions))
        chosen = deltas.view(len(labels), deltas.shape[1] // 4, 4)[positive, labels[positive]]
        box_loss = F.smooth_l1_loss(chosen, wanted[positive], beta=1 / 9, reduction="sum")
        each = F.cross_entropy(logits, labels, reduction="none")
        answers = torch.split(logits.detach(), [len(r) for r in regions])
        weights = torch.cat([region_weights(*known) for known in zip(regions, answers, targets, strict=True)])
        told = [t.active is None for t, r in zip(targets, regions, strict=True) for _ in range(len(r))]
        counted = len(each) if all(told) else int((weights > 0).sum())
        return {
            "loss_classifier": (each * weights).sum() / self._shared(counted, each),
            "loss_box_reg": box_loss / self._shared(labels.numel(), each),
            "loss_mask": self._mask_loss(rows, regions, classes, matched, targets, chances),
        }

    def _boxes(self, rows: Rows, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        logits, deltas = self.box_predictor(self.box_head(self._pooled(rows, regions, 7)))
        return logits.float(), deltas.float()

    def _mask_logits(self, rows: Rows, boxes: list[Tensor]) -> Tensor:
        logits: Tensor = self.mask_predictor(self.mask_head(self._pooled(rows, boxes, 14)))
        return logits.float()

    def _pooled(self, rows: Rows, boxes: list[Tensor], side: int) -> Tensor:
        """(N, C, side, side), channels last in memory, of the boxes of each image in turn."""
        images = [torch.full((len(b),), k, device=b.device) for k, b in enumerate(boxes)]
        pooled = rows.pooled(
            torch.cat(boxes),
            torch.cat(images),
            side,
            samples=self.samples,
            canonical_size=self.canonical_size,
        )
        return pooled.permute(0, 3, 1, 2)

    def _mask_loss(
        self,
        rows: Rows,
        regions: list[Tensor],
        classes: list[Tensor],
        matched: list[Tensor],
        targets: list[Target],
        chances: list[Chance],
    ) -> Tensor:
        positive = [
            self._some(torch.nonzero(c > 0).flatten(), chance)
            for c, chance in zip(classes, chances, strict=True)
        ]
        chosen = [r[p] for r, p in zip(regions, positive, strict=True)]
        counted = self._shared(sum(map(len, chosen)), chosen[0])
        if not sum(map(len, chosen)):
            # Keeps every parameter in the graph, which DDP and the optimiser count on.
            return sum(
                (p.sum() * 0.0 for m in (self.mask_head, self.mask_predictor) for p in m.parameters()),
                start=chosen[0].sum() * 0.0,
            )
        logits = self._mask_logits(rows, chosen)
        labels = torch.cat([c[p] for c, p in zip(classes, positive, strict=True)])
        wanted = torch.cat(
            [
                mask_targets(t.labels, t.ids[m[p]], r, self.mask_size)
                for t, m, p, r in zip(targets, matched, positive, chosen, strict=True)
                if len(p)
            ]
        )
        picked = logits[torch.arange(len(labels), device=labels.device), labels]
        total = F.binary_cross_entropy_with_logits(picked, wanted, reduction="sum")
        return total / (counted * self.mask_size**2)

    def _shared(self, count: int, like: Tensor) -> float:
        return typical_count(count, like.device, shared=self.training)

    def _some(self, positive: Tensor, chance: Chance) -> Tensor:
        """Those whose masks are learnt: all, or as many at random."""
        few = 0 < self.masks_per_image < len(positive)
        return chance.some(positive, self.masks_per_image) if few else positive

    def _sample(
        self, proposals: list[Tensor], targets: list[Target], chances: list[Chance]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Regions to learn from, their class (0 background) and the index of their true box."""
        regions, classes, matched = [], [], []
        for proposed, target, chance in zip(proposals, targets, chances, strict=True):
            candidates = torch.cat([proposed, target.boxes])
            if len(target.boxes):
                iou, index = box_iou(target.boxes, candidates).max(dim=0)
                label = torch.where(iou >= 0.5, target.classes[index], 0)
            else:
                index = torch.zeros(len(candidates), dtype=torch.long, device=candidates.device)
                label = torch.zeros_like(index)
            label[(label == 0) & in_crowds(candidates, target.crowds)] = -1
            positive, negative = chance.balanced(label, self.regions_per_image, self.positive_fraction)
            keep = torch.nonzero(positive | negative).flatten()
            regions.append(candidates[keep])
            classes.append(label[keep])
            matched.append(index[keep])
        return regions, classes, matched
