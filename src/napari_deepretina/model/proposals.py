"""The first stage: anchors, objectness, proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from napari_deepretina.model.architecture import Architecture, Limits
from napari_deepretina.model.targets import Chance, in_crowds, match_anchors


class FloatRPNHead(RPNHead):
    """torchvision's head, answering in float32 whatever the precision it computed in."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness and box deltas per level."""
        objectness, deltas = super().forward(x)
        return [o.float() for o in objectness], [d.float() for d in deltas]


class AnchorSampler:
    """In the place of torchvision's sampler: 256 anchors an image, at most half positive.

    Attributes
    ----------
    chances : of the batch under way, image by image.
    """

    chances: Sequence[Chance] = ()

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks (A,) of the positive and negative anchors of each image to learn from."""
        drawn = [c.balanced(one, 256, 0.5) for c, one in zip(self.chances, labels, strict=True)]
        return [p for p, _ in drawn], [n for _, n in drawn]


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's region proposal network with anchors matched in bounded memory."""

    def __init__(self, architecture: Architecture) -> None:
        anchors = AnchorGenerator(
            sizes=tuple((s,) for s in architecture.anchor_sizes),
            aspect_ratios=(architecture.aspect_ratios,) * len(architecture.anchor_sizes),
        )
        head = FloatRPNHead(architecture.fpn_channels, anchors.num_anchors_per_location()[0])
        super().__init__(
            anchors,
            head,
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 600, "testing": Limits().proposals_per_level},
            post_nms_top_n={"training": 600, "testing": Limits().proposals},
            nms_thresh=Limits().proposal_nms,
            score_thresh=0.0,
        )
        self.fg_bg_sampler = AnchorSampler()

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Any]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels (1, 0, -1) and the matched true box of every anchor, image by image.

        Parameters
        ----------
        targets : ``boxes`` and ``crowds`` of each image, (G, 4) and (N, 4) xyxy, and ``chance``, which draws.
        """
        self.fg_bg_sampler.chances = [target["chance"] for target in targets]
        labels, boxes = [], []
        for anchors_here, target in zip(anchors, targets, strict=True):
            truth = target["boxes"]
            if len(truth) == 0:
                label, box = anchors_here.new_zeros(len(anchors_here)), torch.zeros_like(anchors_here)
            else:
                matched, label = match_anchors(
                    truth,
                    anchors_here,
                    high=self.proposal_matcher.high_threshold,
                    low=self.proposal_matcher.low_threshold,
                )
                box = truth[matched]
            label[(label == 0) & in_crowds(anchors_here, target["crowds"])] = -1
            labels.append(label)
            boxes.append(box)
        return labels, boxes
