"""Mask R-CNN (He et al. 2017) from torchvision's parts, fitted to nuclei."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from napari_deepretina.model.architecture import Architecture, Limits
from napari_deepretina.model.matterport.network import MatterportRCNN
from napari_deepretina.model.proposals import ProposalNetwork
from napari_deepretina.model.regions import Detections, RegionHeads
from napari_deepretina.model.targets import Target

STRIDE = 64
"""Height and width of a batch are multiples of this, the stride of P6."""


class MaskRCNN(nn.Module):
    """The network: called it answers losses, `detect` answers raw detections.

    Batch-norm layers are ordinary ones, so that training from random weights works.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        body = getattr(resnet, architecture.backbone)(weights=None)
        widths = [body.inplanes // 8 * 2**i for i in range(4)]
        self.backbone = BackboneWithFPN(
            body,
            {f"layer{i + 1}": str(i) for i in range(4)},
            widths,
            architecture.fpn_channels,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=nn.BatchNorm2d,
        )
        self.proposals = ProposalNetwork(architecture)
        self.regions = RegionHeads(architecture)

    def forward(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """The five losses of a batch, for training.

        Parameters
        ----------
        images : (B, 3, H, W) float32, normalised to about 0…1, H and W multiples of STRIDE.
        targets : truth of each image.
        """
        features, batch = self._features(images)
        chances = [t.chance() for t in targets]
        truth = [
            {"boxes": t.boxes, "crowds": t.crowds, "chance": c} for t, c in zip(targets, chances, strict=True)
        ]
        proposals, losses = self.proposals(batch, features, truth)
        losses.update(self.regions.losses(features, proposals, targets, chances))
        return cast("dict[str, Tensor]", losses)

    @torch.inference_mode()
    def detect(
        self, images: Tensor, limits: Limits | None = None, windows: Tensor | None = None
    ) -> Generator[float, None, list[Detections]]:
        """Raw detections of each image, in steps, so that a caller can show progress and cancel.

        Parameters
        ----------
        images : as for training; the network must be in evaluation mode.
        limits : floors and caps of what is returned.
        windows : where the images lie in the batch; it makes no difference to this network.

        Yields
        ------
        float
            Share of the work done, 0…1.

        Returns
        -------
        one Detections an image, boxes in pixels of the batch.
        """
        limits = limits or Limits()
        features, batch = self._features(images)
        yield 0.4
        proposals = self.proposals.propose(batch, features, limits)
        yield 0.5
        steps = self.regions.detect(features, proposals, batch.image_sizes, limits)
        try:
            while True:
                yield 0.5 + 0.5 * next(steps)
        except StopIteration as end:
            return cast("list[Detections]", end.value)

    def stage_modules(self) -> dict[int, list[nn.Module]]:
        """Parts of the backbone by stage, 1 (the stem) to 5."""
        body = self.backbone.body
        return {1: [body["conv1"], body["bn1"]], **{k + 1: [body[f"layer{k}"]] for k in range(1, 5)}}

    def set_sampling(
        self, regions_per_image: int, positive_fraction: float, masks_per_image: int = 0
    ) -> None:
        """How many regions of an image are learnt from, how many of them positive, of how many the mask.

        Both later numbers are the most there may be; no limit on masks is 0.
        """
        self.regions.regions_per_image = regions_per_image
        self.regions.positive_fraction = positive_fraction
        self.regions.masks_per_image = masks_per_image

    def answer_losses(self) -> None:
        """Evaluation mode, but for answering losses: batch-norm uses the statistics it has."""
        self.eval()
        self.proposals.training = True  # this module alone: it answers losses only so

    def _features(self, images: Tensor) -> tuple[dict[str, Tensor], ImageList]:
        height, width = images.shape[-2:]
        if height % STRIDE or width % STRIDE:
            raise ValueError(f"height and width must be multiples of {STRIDE}, got {height}×{width}")
        # Anchors and pooled features take the precision of the maps, so these are float32.
        features = {name: f.float() for name, f in self.backbone(self.prepared(images)).items()}
        return features, ImageList(images, [(height, width)] * len(images))

    @staticmethod
    def prepared(images: Tensor) -> Tensor:
        """What the backbone is given of normalised images."""
        return images.contiguous(memory_format=torch.channels_last) * 4.0 - 1.0


Network = MaskRCNN | MatterportRCNN
"""What can be trained and asked: both answer losses when called, and detections."""


def size_of(architecture: Architecture) -> int:
    """Bytes of a network's weights, counted without making it."""
    with torch.device("meta"):
        return sum(value.nbytes for value in build(architecture).state_dict().values())


def build(architecture: Architecture, *, seed: int | None = None) -> Network:
    """The network of an architecture with random weights; the same seed gives the same weights."""
    if seed is None:
        network = MatterportRCNN(architecture) if architecture.is_matterport else MaskRCNN(architecture)
        return network.to(memory_format=cast(Any, torch.channels_last))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(architecture)
