"""The parts of a network that learn from corrections."""

from __future__ import annotations

import copy
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from napari_deepretina.model.network import MaskRCNN
from napari_deepretina.model.proposals import FloatRPNHead


class Heads(nn.Module):
    """Copies of a network's proposal, box and mask heads, under the names that they have in it."""

    def __init__(self, network: MaskRCNN) -> None:
        super().__init__()
        self.proposals = nn.ModuleDict({"head": copy.deepcopy(network.proposals.head)})
        self.regions = copy.deepcopy(network.regions)
        self.eval()

    @property
    def head(self) -> FloatRPNHead:
        """The proposal head."""
        return cast(FloatRPNHead, self.proposals["head"])

    def objectness(self, around: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, A) and deltas (N, A, 4) of the anchors at places, from (N, C, 3, 3) around them."""
        head = self.head
        (conv,) = [m for m in head.conv.modules() if isinstance(m, nn.Conv2d)]
        hidden = F.relu(F.conv2d(around, conv.weight, conv.bias))
        logits, deltas = head.cls_logits(hidden).flatten(1), head.bbox_pred(hidden).flatten(1)
        return logits, deltas.view(len(around), -1, 4)

    def classes(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, C + 1) and deltas (N, C + 1, 4) of regions, from (N, C, 7, 7)."""
        logits, deltas = self.regions.box_predictor(self.regions.box_head(pooled))
        return logits, deltas.view(len(pooled), -1, 4)

    def shapes(self, pooled: Tensor) -> Tensor:
        """Logits (N, C + 1, 28, 28) of masks, from (N, C, 14, 14)."""
        logits: Tensor = self.regions.mask_predictor(self.regions.mask_head(pooled))
        return logits
