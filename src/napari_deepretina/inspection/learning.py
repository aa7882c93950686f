"""What training would learn from an image and its truth: anchors, sampled regions, and their mask targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from napari_deepretina.data.crops import target_of
from napari_deepretina.errors import UserError
from napari_deepretina.inspection import MATCHES
from napari_deepretina.inspection.steps import Inspection
from napari_deepretina.model.matterport import training as matterport
from napari_deepretina.model.targets import Chance, mask_targets, match_anchors

DRAWN = 256
"""Anchors of an image that are learnt from in a step."""


@dataclass(frozen=True)
class Learning:
    """Truth as the two stages of the network are shown it; boxes are (N, 4) xyxy in pixels of the image.

    Attributes
    ----------
    anchors, match : all anchors, and 1, 0 or -1 of each: see `MATCHES`.
    drawn : (A,) bool, those that a step learns from, at most `DRAWN`, half of them positive at most.
    matched : (A,) int64, the true box that each anchor overlaps most.
    truth, truth_classes : true boxes and their classes.
    regions, classes, overlap : regions that a step learns from, positive ones first; their class, 0 for
        background; and their IoU with the true box that they overlap most.
    masks : (P, 28, 28) float32 of zeros and ones, what the mask head should answer for the positive regions.
    """

    anchors: NDArray[np.float32]
    match: NDArray[np.int64]
    drawn: NDArray[np.bool_]
    matched: NDArray[np.int64]
    truth: NDArray[np.float32]
    truth_classes: NDArray[np.int64]
    regions: NDArray[np.float32]
    classes: NDArray[np.int64]
    overlap: NDArray[np.float32]
    masks: NDArray[np.float32]

    @property
    def counts(self) -> dict[str, int]:
        """How many anchors are positive, negative and neutral, and how many regions positive and negative."""
        told = {name: int((self.match == k).sum()) for k, name in MATCHES.items()}
        positive = int((self.classes > 0).sum())
        return told | {"positive regions": positive, "negative regions": len(self.classes) - positive}


def what_is_learnt(
    inspection: Inspection,
    truth: NDArray[np.integer],
    *,
    regions: int = 128,
    positive_fraction: float = 0.33,
    seed: int = 0,
) -> Learning:
    """Match anchors and proposals of an inspected image with its truth, and draw as a training step does.

    Parameters
    ----------
    truth : (H, W) labels of the same image.
    regions, positive_fraction : as in a stage of a recipe.
    seed : of the draws.

    Raises
    ------
    UserError
        If the truth is of another size, or has no nuclei.
    """
    traced = inspection.traced
    if truth.shape != inspection.labels.shape:
        raise UserError(
            f"the truth is {truth.shape}, the image {inspection.labels.shape}: they must be of one size"
        )
    target, chance = target_of(np.asarray(truth, np.int32)), Chance(seed)
    if not len(target.boxes):
        raise UserError("the truth has no nuclei of 10 pixels or more")
    anchors, proposals = (torch.from_numpy(b) for b in (traced.anchors, traced.refined[traced.regions]))
    match, matched, original = *_matched(inspection, anchors, target.boxes), inspection.raw.fading
    positive, negative = chance.balanced(match, DRAWN, 0.5)
    candidates = proposals if original else torch.cat([proposals, target.boxes])
    overlap, index = box_iou(target.boxes, candidates).max(dim=0)
    hits = chance.some(torch.nonzero(overlap >= 0.5).flatten(), int(regions * positive_fraction))
    most = int(len(hits) / positive_fraction) - len(hits) if original else regions - len(hits)
    rest = chance.some(torch.nonzero(overlap < 0.5).flatten(), most)
    chosen = torch.cat([hits, rest])
    masks = mask_targets(target.labels, target.ids[index[hits]], candidates[hits], 28)
    classes = torch.cat([target.classes[index[hits]], torch.zeros(len(rest), dtype=torch.long)])
    return Learning(
        traced.anchors,
        match.long().numpy(),
        (positive | negative).bool().numpy(),
        matched.numpy(),
        target.boxes.numpy(),
        target.classes.numpy(),
        candidates[chosen].numpy(),
        classes.numpy(),
        overlap[chosen].numpy(),
        masks.numpy(),
    )


def _matched(
    inspection: Inspection, anchors: torch.Tensor, truth: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels 1, 0, -1 and the best true box of each anchor, by the rule of the network at hand."""
    if inspection.raw.fading:
        sign, best = matterport.match_anchors(anchors[:, [1, 0, 3, 2]], truth[:, [1, 0, 3, 2]])
        return torch.where(sign == 1, 1, torch.where(sign == -1, 0, -1)), best
    matched, labels = match_anchors(truth, anchors)
    return labels.long(), matched
