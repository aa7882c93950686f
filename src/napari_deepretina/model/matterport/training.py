"""What Matterport's network learns from: anchors and regions with their truth, and five losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from napari_deepretina.model.matterport import boxes as mboxes
from napari_deepretina.model.targets import Chance, Target, in_crowds, mask_targets, typical_count

if TYPE_CHECKING:
    from napari_deepretina.model.matterport.network import MatterportRCNN

ANCHORS_PER_IMAGE = 256
ANCHORS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Sampling:
    """Regions an image to learn from, the most positive ones (a share), and the most masks (0: no limit)."""

    regions_per_image: int = 600
    positive_fraction: float = 0.33
    masks_per_image: int = 0


@dataclass(frozen=True)
class RegionTargets:
    """R regions of one image with what the heads should answer; rows of zeros fill up.

    Attributes
    ----------
    regions : (R, 4) normalised.
    classes : (R,) int64, 0 for background.
    deltas : (R, 4), 0 where there is no object; gradients reach the proposals through them.
    masks : (P, 28, 28) float32 of the P first positive regions, which come before the others.
    """

    regions: Tensor
    classes: Tensor
    deltas: Tensor
    masks: Tensor


def match_anchors(anchors: Tensor, truth: Tensor, crowds: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Assign anchors to true boxes, both (y1, x1, y2, x2) in pixels, as the boxes of crowds are.

    Positive from IoU 0.7 on, and the best anchor of each box (the first of equal ones); negative below
    0.3 with every box.

    Returns
    -------
    match : (A,) int64, 1 positive, -1 negative, 0 neither; in a crowd, none is negative.
    best : (A,) int64, each anchor's own best box, even where it was chosen for another one.
    """
    apart = ~in_crowds(anchors, anchors.new_zeros((0, 4)) if crowds is None else crowds)
    if not len(truth):
        return -apart.long(), torch.zeros_like(apart, dtype=torch.long)
    best, highest, of_box = [], [], []
    for chunk in torch.split(anchors, ANCHORS_AT_ONCE):
        iou = box_iou(chunk, truth)
        value, index = iou.max(dim=1)
        best.append(index)
        highest.append(value)
        of_box.append(torch.stack([*iou.max(dim=0)]))
    values = torch.stack([o[0] for o in of_box])  # (chunks, G)
    chunk = values.argmax(dim=0)
    within = torch.stack([o[1] for o in of_box])[chunk, torch.arange(len(truth), device=truth.device)]
    iou = torch.cat(highest)
    match = torch.zeros(len(anchors), dtype=torch.long, device=anchors.device)
    match[(iou < 0.3) & apart] = -1
    match[chunk * ANCHORS_AT_ONCE + within.long()] = 1
    match[iou >= 0.7] = 1
    return match, torch.cat(best)


def subsampled(match: Tensor, chance: Chance) -> Tensor:
    """At most 128 positive and 256 anchors in all, drawn at random; the others become neither."""
    match = match.clone()
    for sign, most in ((1, ANCHORS_PER_IMAGE // 2), (-1, None)):
        found = torch.nonzero(match == sign).flatten()
        allowed = most if most is not None else ANCHORS_PER_IMAGE - int((match == 1).sum())
        match[chance.some(found, len(found) - allowed)] = 0
    return match


def anchor_deltas(anchors: Tensor, truth: Tensor) -> Tensor:
    """(P, 4) deltas that the RPN should answer for positive anchors, in units of `boxes.STD`."""
    deltas = mboxes.deltas_between(anchors, truth)
    return deltas / mboxes.standard_deviations(deltas)


def region_targets(
    proposals: Tensor,
    truth: Tensor,
    target: Target,
    sampling: Sampling,
    *,
    crowds: Tensor | None = None,
    chance: Chance | None = None,
) -> RegionTargets:
    """Draw regions of one image and tell what the heads should answer for them.

    Parameters
    ----------
    proposals : (N, 4) normalised; rows of zeros do not count.
    truth : (G, 4) normalised true boxes, in the order of the target.
    target : classes and label image.
    crowds : (N, 4) normalised boxes; no region that overlaps one is negative.
    chance : draws the regions; by default the target's.
    """
    chance = chance or target.chance()
    proposals = proposals[proposals.abs().sum(dim=1) > 0]
    count = sampling.regions_per_image
    iou = box_iou(proposals, truth) if len(truth) else proposals.new_zeros((len(proposals), 1))
    highest, index = iou.max(dim=1)
    positive = chance.some(torch.nonzero(highest >= 0.5).flatten(), int(count * sampling.positive_fraction))
    negatives = int(1 / sampling.positive_fraction * len(positive)) - len(positive)
    apart = ~in_crowds(proposals, proposals.new_zeros((0, 4)) if crowds is None else crowds)
    negative = chance.some(torch.nonzero((highest < 0.5) & apart).flatten(), negatives)
    matched = index[positive]
    regions = proposals[positive]
    deltas = proposals.new_zeros((0, 4))
    masks = proposals.new_zeros((0, 28, 28))
    if len(positive):
        deltas = mboxes.deltas_between(regions, truth[matched])
        deltas = deltas / mboxes.standard_deviations(deltas)
        some = slice(sampling.masks_per_image or len(positive))  # they are in random order already
        masks = mask_targets(
            target.labels, target.ids[matched[some]], _sampled_from(regions[some].detach(), target.labels), 28
        )
    chosen = torch.cat([regions, proposals[negative]])[:count]
    classes = torch.cat([target.classes[matched], matched.new_zeros(len(negative))])[:count]
    return RegionTargets(
        F.pad(chosen, (0, 0, 0, count - len(chosen))),
        F.pad(classes, (0, count - len(classes))),
        F.pad(deltas, (0, 0, 0, count - len(deltas))),
        masks,
    )


def _sampled_from(regions: Tensor, labels: Tensor) -> Tensor:
    """Normalised regions as the xyxy pixels whose 28 cells have their centres on the corners' grid."""
    height, width = labels.shape[-2:]
    pixels = regions * regions.new_tensor([height - 1, width - 1, height - 1, width - 1]) + 0.5
    y1, x1, y2, x2 = pixels.unbind(1)
    half_y, half_x = (y2 - y1) / 27 / 2, (x2 - x1) / 27 / 2
    return torch.stack([x1 - half_x, y1 - half_y, x2 + half_x, y2 + half_y], dim=1)


def losses(
    network: MatterportRCNN, features: list[Tensor], shape: tuple[int, int], targets: list[Target]
) -> dict[str, Tensor]:
    """The five losses of a batch, under the names that all networks here use."""
    logits, deltas = network.rpn(features)
    anchors = torch.from_numpy(
        mboxes.pyramid_anchors(shape, network.architecture.anchor_sizes, network.architecture.aspect_ratios)
    ).to(logits)
    matches, wanted, drawn = [], [], []
    for image, target in enumerate(targets):
        truth, crowds = target.boxes[:, [1, 0, 3, 2]], target.crowds[:, [1, 0, 3, 2]]
        match, best = match_anchors(anchors, truth, crowds)
        chance = target.chance()
        match = subsampled(match, chance)
        positive = match == 1
        matches.append(match)
        wanted.append(anchor_deltas(anchors[positive], truth[best[positive]]))
        proposals = network.propose(
            logits[image].softmax(-1), deltas[image], shape, network.training_proposals
        )
        normal = [
            torch.from_numpy(mboxes.normalised(b.cpu().numpy(), shape)).to(proposals) for b in (truth, crowds)
        ]
        drawn.append(
            region_targets(proposals, normal[0], target, network.sampling, crowds=normal[1], chance=chance)
        )
    # As in the original, the box loss moves the proposals too, through the deltas that are left to answer;
    # features and masks take them as they are.
    regions = [
        network.box_head(mboxes.pooled([f[k] for f in features[:4]], d.regions.detach(), shape, 7))
        for k, d in enumerate(drawn)
    ]
    masks = [
        network.mask_head(
            mboxes.pooled([f[k] for f in features[:4]], d.regions[: len(d.masks)].detach(), shape, 14)
        )
        for k, d in enumerate(drawn)
    ]
    return {
        **rpn_losses(logits, deltas, torch.stack(matches), torch.cat(wanted), shared=network.training),
        **head_losses(
            torch.cat([r.logits for r in regions]),
            torch.cat([r.deltas for r in regions]),
            torch.cat([d.classes for d in drawn]),
            torch.cat([d.deltas for d in drawn]),
            torch.cat([t.counts(r.logits.detach()) for t, r in zip(targets, regions, strict=True)]),
            shared=network.training,
        ),
        "loss_mask": mask_loss(
            torch.cat(masks),
            torch.cat([d.classes[: len(d.masks)] for d in drawn]),
            torch.cat([d.masks for d in drawn]),
            shared=network.training,
        ),
    }


def _mean(values: Tensor, shared: bool) -> Tensor:
    """Of all values of a batch, over all processes: see `typical_count`."""
    return values.sum() / typical_count(values.numel(), values.device, shared=shared)


def rpn_losses(
    logits: Tensor, deltas: Tensor, match: Tensor, wanted: Tensor, *, shared: bool = False
) -> dict[str, Tensor]:
    """Class and box loss of the anchors of a batch.

    Parameters
    ----------
    logits, deltas : (B, A, 2) and (B, A, 4).
    match : (B, A), 1 positive, -1 negative, 0 neither.
    wanted : (P, 4) deltas of the positive ones, in order.
    shared : whether other processes have parts of the batch, as in the losses below.
    """
    counted, positive = match != 0, match == 1
    objectness = F.cross_entropy(logits[counted], positive[counted].long(), reduction="none")
    box = F.smooth_l1_loss(deltas[positive], wanted, reduction="none")
    return {"loss_objectness": _mean(objectness, shared), "loss_rpn_box_reg": _mean(box, shared)}


def head_losses(
    logits: Tensor,
    deltas: Tensor,
    classes: Tensor,
    wanted: Tensor,
    counts: Tensor | None = None,
    *,
    shared: bool = False,
) -> dict[str, Tensor]:
    """Class and box loss of (N,) regions; rows that fill up count as background, as in the original.

    `counts`, (N,) of 1 and 0, says whose class is learnt from; by default that of all.
    """
    positive = torch.nonzero(classes > 0).flatten()
    box = F.smooth_l1_loss(deltas[positive, classes[positive]], wanted[positive], reduction="none")
    each = F.cross_entropy(logits, classes, reduction="none")
    counts = torch.ones_like(each) if counts is None else counts
    counted = typical_count(int(counts.sum()), each.device, shared=shared)
    return {"loss_classifier": (each * counts).sum() / counted, "loss_box_reg": _mean(box, shared)}


def mask_loss(logits: Tensor, classes: Tensor, wanted: Tensor, *, shared: bool = False) -> Tensor:
    """Mean binary cross-entropy over the masks of the true classes of (P,) positive regions."""
    chosen = logits[torch.arange(len(classes), device=logits.device), classes]
    return _mean(F.binary_cross_entropy_with_logits(chosen, wanted, reduction="none"), shared)
