"""The first stage: anchors, objectness, proposals."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from napari_deepretina.model.architecture import Architecture, Limits
from napari_deepretina.model.targets import match_anchors


class FloatRPNHead(RPNHead):
    """torchvision's head, answering in float32 whatever the precision it computed in."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness and box deltas per level."""
        objectness, deltas = super().forward(x)
        return [o.float() for o in objectness], [d.float() for d in deltas]


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

    def propose(self, images: ImageList, features: dict[str, Tensor], limits: Limits) -> list[Tensor]:
        """(N, 4) xyxy proposals of each image, best first, within the limits; evaluation mode."""
        self._pre_nms_top_n["testing"] = limits.proposals_per_level
        self._post_nms_top_n["testing"] = limits.proposals
        self.score_thresh, self.nms_thresh = limits.objectness, limits.proposal_nms
        proposals: list[Tensor] = self(images, features)[0]
        return proposals

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels (1, 0, -1) and the matched true box of every anchor, image by image."""
        labels, boxes = [], []
        for anchors_here, target in zip(anchors, targets, strict=True):
            truth = target["boxes"]
            if len(truth) == 0:
                labels.append(anchors_here.new_zeros(len(anchors_here)))
                boxes.append(torch.zeros_like(anchors_here))
                continue
            matched, label = match_anchors(
                truth,
                anchors_here,
                high=self.proposal_matcher.high_threshold,
                low=self.proposal_matcher.low_threshold,
            )
            labels.append(label)
            boxes.append(truth[matched])
        return labels, boxes
