"""Mask R-CNN (He et al. 2017) from torchvision's parts, fitted to nuclei."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.batch import prepared, size_of
from napari_deepretina.model.detector import Detector
from napari_deepretina.model.matterport.network import MatterportRCNN
from napari_deepretina.model.proposals import ProposalNetwork
from napari_deepretina.model.regions import RegionHeads
from napari_deepretina.model.targets import Target


def _body(architecture: Architecture) -> resnet.ResNet:
    """The backbone with random weights, as wide as the architecture says."""
    make, width = getattr(resnet, architecture.backbone), architecture.width
    if width == 1:
        return cast(resnet.ResNet, make(weights=None))
    with torch.device("meta"):
        body: resnet.ResNet = make(weights=None)
    for module in list(body.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                setattr(module, name, nn.BatchNorm2d(int(layer.num_features * width)))
            elif isinstance(layer, nn.Conv2d):
                inputs = layer.in_channels if layer is body.conv1 else int(layer.in_channels * width)
                outputs = int(layer.out_channels * width)
                like: Any = {key: getattr(layer, key) for key in ("kernel_size", "stride", "padding")}
                new = nn.Conv2d(inputs, outputs, **like, bias=False)
                nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
                setattr(module, name, new)
    return body


class MaskRCNN(nn.Module):
    """The network in training: called it answers losses; `for_inference` gives what detects.

    Batch-norm layers are ordinary ones, so that training from random weights works.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        body = _body(architecture)
        widths = [int(body.inplanes * architecture.width) // 8 * 2**i for i in range(4)]
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

    def for_inference(self, dtype: torch.dtype = torch.float32) -> Detector:
        """A copy that detects, in this precision, and shares nothing with this network."""
        return Detector(self, dtype)

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
        size = size_of(images)
        # Anchors and pooled features take the precision of the maps, so these are float32.
        features = {name: f.float() for name, f in self.backbone(prepared(images)).items()}
        return features, ImageList(images, [size] * len(images))


Network = MaskRCNN | MatterportRCNN
"""What can be trained: both answer losses when called."""
Detecting = Detector | MatterportRCNN
"""What can be asked for detections."""


def bytes_of(architecture: Architecture) -> int:
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
