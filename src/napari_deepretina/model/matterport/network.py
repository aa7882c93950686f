"""Matterport's Mask R-CNN in PyTorch, layer by layer under the names that Keras gave them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

from napari_deepretina.model.architecture import Architecture, Limits
from napari_deepretina.model.matterport import boxes as mboxes
from napari_deepretina.model.matterport.keras_shapes import BLOCKS
from napari_deepretina.model.matterport.training import Sampling, losses
from napari_deepretina.model.regions import Detections
from napari_deepretina.model.targets import Target

MEAN_PIXEL = (123.7, 116.8, 103.9)
"""Red, green, blue of 255, subtracted from every image."""


class KerasBatchNorm(nn.BatchNorm2d):
    """Batch-norm as the original trains it: statistics stay as they are, scale and shift are learnt."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3)

    def train(self, mode: bool = True) -> KerasBatchNorm:
        """Never leave evaluation mode."""
        return super().train(False)


@dataclass(frozen=True)
class Regions:
    """What the box head answers for N regions: logits (N, C), deltas (N, C, 4)."""

    logits: Tensor
    deltas: Tensor


class MatterportRCNN(nn.Module):
    """The network: called it answers losses, `detect` answers raw detections.

    Attributes
    ----------
    layers : modules by the names of the Keras layers.
    proposals, detections : most regions that are looked at, and most detections, at inference.
    sampling : regions an image, and their share of positives, in training.
    """

    before_nms = 6000
    proposals = 1000
    training_proposals = 2000
    detections = 512
    proposal_nms = 0.7

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.sampling = Sampling()
        a = architecture
        self.layers = nn.ModuleDict(
            {
                **_body(BLOCKS[a.backbone], a.body_widths),
                **_pyramid(a.body_widths, a.fpn_channels),
                **_heads(a),
            }
        )
        for module in self.modules():  # as Keras draws them: Glorot uniform, biases 0
            if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(cast(Tensor, module.bias))

    def forward(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """The five losses of a batch, for training.

        Parameters
        ----------
        images : (B, 3, H, W) float32 RGB in 0…1 of the full range, H and W multiples of 64.
        targets : truth of each image.
        """
        features = self.pyramid(images)
        return losses(self, features, _shape(images), targets)

    def for_inference(self, dtype: torch.dtype = torch.float32) -> MatterportRCNN:
        """The network itself: it computes in float32 only, and shares its layers with what is trained."""
        if dtype != torch.float32:
            raise ValueError(f"Matterport's network computes in float32, not in {dtype}")
        return self.eval()

    @torch.inference_mode()
    def detect(
        self, images: Tensor, limits: Limits | None = None, windows: Tensor | None = None
    ) -> Generator[float, None, list[Detections]]:
        """Raw detections of each image, in steps, so that a caller can show progress and cancel.

        Parameters
        ----------
        images : as for training.
        limits : score floor and overlap of detections; the numbers of regions are the original's.
        windows : (B, 4) y1, x1, y2, x2 in pixels of the batch, where the images lie; by default they
            fill it.

        Yields
        ------
        float
            Share of the work done, 0…1.

        Returns
        -------
        one Detections an image, boxes xyxy in pixels of the batch as float64, masks float32 in 0…255.
        """
        limits = limits or Limits()
        shape = _shape(images)
        features = self.pyramid(images)
        yield 0.4
        scores, deltas = self.rpn(features)
        answers = []
        for image in range(len(images)):
            one = [f[image] for f in features[:4]]
            window = _window(None if windows is None else windows[image], shape, images.device)
            regions = self.propose(torch.softmax(scores[image], -1), deltas[image], shape, self.proposals)
            heads = self.box_head(mboxes.pooled(one, regions, shape, 7))
            found, confidence, classes = self.refine(regions, heads, window, limits)
            masks = [found.new_zeros((0, 28, 28), dtype=torch.float32)]
            for start in range(0, len(found), limits.masks_at_once):
                some = slice(start, start + limits.masks_at_once)
                values = self.mask_head(mboxes.pooled(one, found[some], shape, 14)).sigmoid()
                chosen = values[torch.arange(len(values), device=values.device), classes[some]]
                masks.append(chosen * 255)
                share = (image + min(1.0, (start + len(values)) / max(1, len(found)))) / len(images)
                yield 0.4 + 0.6 * share
            answers.append(Detections(as_pixels(found, shape), confidence, classes, torch.cat(masks)))
        return answers

    # ---- parts, each with what it takes and gives ----

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """P2…P6 of (B, 3, H, W) images in 0…1: (B, C, H / stride, W / stride) each, float32."""
        height, width = _shape(images)
        if height % 64 or width % 64:
            raise ValueError(f"height and width must be multiples of 64, got {height}×{width}")
        return self.top_down(self.body(images))

    def body(self, images: Tensor) -> list[Tensor]:
        """C2…C5."""
        return self.stages(images)[2:]

    def stages(self, images: Tensor) -> list[Tensor]:
        """What conv1 gives before its batch-norm, the pooled stem, C2…C5."""
        mean = images.new_tensor(MEAN_PIXEL)[:, None, None]
        x = (images * 255.0 - mean).contiguous(memory_format=torch.channels_last)
        convolved = self.layers["conv1"](x)
        x = F.relu(self.layers["bn_conv1"](convolved))
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 3, 2)
        outputs = [convolved, x]
        for stage, blocks in enumerate(BLOCKS[self.architecture.backbone], start=2):
            for block in range(blocks):
                x = self._block(x, f"{stage}{chr(ord('a') + block)}", first=block == 0)
            outputs.append(x)
        return outputs

    def _block(self, x: Tensor, name: str, *, first: bool) -> Tensor:
        y = x
        for branch in ("2a", "2b", "2c"):
            y = self.layers[f"bn{name}_branch{branch}"](self.layers[f"res{name}_branch{branch}"](y))
            y = F.relu(y) if branch != "2c" else y
        if first:
            x = self.layers[f"bn{name}_branch1"](self.layers[f"res{name}_branch1"](x))
        return F.relu(x + y)

    def top_down(self, stages: list[Tensor]) -> list[Tensor]:
        """P2…P6 of C2…C5."""
        lateral = [self.layers[f"fpn_c{k}p{k}"](c) for k, c in enumerate(stages, start=2)]
        merged = [lateral[3]]
        for one in reversed(lateral[:3]):
            merged.insert(0, F.interpolate(merged[0], scale_factor=2.0, mode="nearest") + one)
        # Regions take their coordinates from the maps' precision, so these are float32.
        maps = [self.layers[f"fpn_p{k}"](m).float() for k, m in enumerate(merged, start=2)]
        return [*maps, maps[3][:, :, ::2, ::2]]

    def rpn(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, A, 2) of background and foreground, deltas (B, A, 4), in the anchors' order."""
        logits: list[Tensor] = []
        deltas: list[Tensor] = []
        for level in features:
            shared = F.relu(self.layers["rpn_conv_shared"](level))
            for kept, name, width in ((logits, "rpn_class_raw", 2), (deltas, "rpn_bbox_pred", 4)):
                answer = self.layers[name](shared).float().permute(0, 2, 3, 1)
                kept.append(answer.reshape(len(answer), -1, width))
        return torch.cat(logits, 1), torch.cat(deltas, 1)

    def anchors(self, shape: tuple[int, int], device: torch.device) -> Tensor:
        """(A, 4) normalised anchors."""
        a = self.architecture
        boxes = mboxes.pyramid_anchors(shape, a.anchor_sizes, a.aspect_ratios)
        return torch.from_numpy(mboxes.normalised(boxes, shape)).to(device)

    def propose(self, probabilities: Tensor, deltas: Tensor, shape: tuple[int, int], count: int) -> Tensor:
        """(count, 4) regions of one image, surest first, filled up with zeros as the original does."""
        _, moved, keep = self.thin(probabilities, deltas, shape, count)
        return F.pad(moved[keep], (0, 0, 0, count - len(keep)))

    def thin(
        self, probabilities: Tensor, deltas: Tensor, shape: tuple[int, int], count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The surest anchors of one image, their boxes moved and clipped, and which of them NMS leaves."""
        order = torch.argsort(probabilities[:, 1], descending=True, stable=True)[: self.before_nms]
        anchors = self.anchors(shape, deltas.device)[order]
        moved = mboxes.apply_deltas(anchors, deltas[order] * mboxes.standard_deviations(deltas))
        moved = mboxes.clipped(moved, moved.new_tensor([0.0, 0.0, 1.0, 1.0]))
        keep = nms(moved.detach(), probabilities[order, 1].detach(), self.proposal_nms)[:count]
        return order, moved, keep

    def box_head(self, pooled: Tensor) -> Regions:
        """Class logits and box deltas of (N, C, 7, 7) features."""
        layers = self.layers
        x = F.relu(layers["mrcnn_class_bn1"](layers["mrcnn_class_conv1"](pooled)))
        x = F.relu(layers["mrcnn_class_bn2"](layers["mrcnn_class_conv2"](x))).flatten(1)
        deltas = layers["mrcnn_bbox_fc"](x).float()
        logits = layers["mrcnn_class_logits"](x).float()
        return Regions(logits, deltas.view(len(x), logits.shape[1], 4))

    def refine(
        self, regions: Tensor, heads: Regions, window: Tensor, limits: Limits
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Final boxes (N, 4), scores and classes, surest first: best class, moved, clipped, thinned."""
        scores, classes = heads.logits.softmax(-1).max(dim=1)
        moved = self.move(regions, heads, classes, window)
        keep = self.select(moved, scores, classes, limits)
        return moved[keep], scores[keep], classes[keep]

    def move(self, regions: Tensor, heads: Regions, classes: Tensor, window: Tensor) -> Tensor:
        """Regions moved by the deltas of their classes, and clipped to the image."""
        chosen = heads.deltas[torch.arange(len(classes), device=classes.device), classes]
        moved = mboxes.apply_deltas(regions, chosen * mboxes.standard_deviations(chosen))
        return mboxes.clipped(moved, window)

    def select(self, boxes: Tensor, scores: Tensor, classes: Tensor, limits: Limits) -> Tensor:
        """Places of the detections: objects that are sure enough, thinned class by class, surest first."""
        kept = []
        for label in sorted(set(classes[classes > 0].tolist())):
            here = torch.nonzero((classes == label) & (scores >= limits.score)).flatten()
            kept.append(here[nms(boxes[here], scores[here], limits.nms)[: self.detections]])
        keep = torch.cat(kept) if kept else torch.zeros(0, dtype=torch.long, device=boxes.device)
        return keep[torch.argsort(scores[keep], descending=True, stable=True)][: self.detections]

    def mask_head(self, pooled: Tensor) -> Tensor:
        """Logits (N, classes, 28, 28) of (N, C, 14, 14) features."""
        x = pooled
        for k in range(1, 5):
            x = F.relu(self.layers[f"mrcnn_mask_bn{k}"](self.layers[f"mrcnn_mask_conv{k}"](x)))
        x = F.relu(self.layers["mrcnn_mask_deconv"](x))
        return cast(Tensor, self.layers["mrcnn_mask"](x).float())

    # ---- what training asks of any network ----

    def stage_modules(self) -> dict[int, list[nn.Module]]:
        """Parts of the backbone by stage, 1 (the stem) to 5."""
        parts: dict[int, list[nn.Module]] = {k: [] for k in range(1, 6)}
        for name, module in self.layers.items():
            if name in ("conv1", "bn_conv1"):
                parts[1].append(module)
            elif name.startswith(("res", "bn")):
                parts[int(name.removeprefix("res").removeprefix("bn")[0])].append(module)
        return parts

    def set_sampling(
        self, regions_per_image: int, positive_fraction: float, masks_per_image: int = 0
    ) -> None:
        """How many regions of an image are learnt from, how many of them positive, of how many the mask.

        Both later numbers are the most there may be; no limit on masks is 0.
        """
        self.sampling = Sampling(regions_per_image, positive_fraction, masks_per_image)

    def answer_losses(self) -> None:
        """Evaluation mode, but for answering losses: there is no difference here."""
        self.eval()


def _shape(images: Tensor) -> tuple[int, int]:
    return int(images.shape[-2]), int(images.shape[-1])


def _window(pixels: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Where the image lies, normalised."""
    if pixels is None:
        pixels = torch.tensor([0, 0, *shape])
    return torch.from_numpy(mboxes.normalised(pixels.cpu().numpy(), shape)).to(device)


def as_pixels(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """Normalised boxes as xyxy pixels of the batch, exact enough to come back the same."""
    height, width = shape
    scale = torch.tensor([height - 1, width - 1, height - 1, width - 1], dtype=torch.float64)
    shift = torch.tensor([0, 0, 1, 1], dtype=torch.float64)
    pixels = boxes.double().cpu() * scale + shift
    return pixels[:, [1, 0, 3, 2]]


def _body(blocks: tuple[int, ...], widths: tuple[int, ...]) -> dict[str, nn.Module]:
    """Stem and stages; the stride sits on a stage's first 1×1 convolution and on its shortcut."""
    stem, *rest = widths
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(3, stem, 7, 2, 3),
        "bn_conv1": KerasBatchNorm(stem),
    }
    before = stem
    for stage, count in enumerate(blocks, start=2):
        inner, out = rest[2 * (stage - 2) : 2 * (stage - 1)]
        for block in range(count):
            name = f"{stage}{chr(ord('a') + block)}_branch"
            stride = 2 if block == 0 and stage > 2 else 1
            convolutions = {
                "2a": nn.Conv2d(before, inner, 1, stride),
                "2b": nn.Conv2d(inner, inner, 3, 1, 1),
                "2c": nn.Conv2d(inner, out, 1),
            }
            if block == 0:
                convolutions["1"] = nn.Conv2d(before, out, 1, stride)
            norms = {f"bn{name}{k}": KerasBatchNorm(c.out_channels) for k, c in convolutions.items()}
            for branch, convolution in convolutions.items():
                layers[f"res{name}{branch}"] = convolution
                if branch in ("2a", "2b"):  # in the order in which Keras lists them
                    layers[f"bn{name}{branch}"] = norms[f"bn{name}{branch}"]
            layers |= norms
            before = out
    return layers


def _pyramid(widths: tuple[int, ...], channels: int) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {}
    for level in (5, 4, 3, 2):
        layers[f"fpn_c{level}p{level}"] = nn.Conv2d(widths[2 * (level - 1)], channels, 1)
    for level in (5, 2, 3, 4):
        layers[f"fpn_p{level}"] = nn.Conv2d(channels, channels, 3, 1, 1)
    return layers


def _heads(a: Architecture) -> dict[str, nn.Module]:
    anchors, classes = len(a.aspect_ratios), a.num_classes
    layers: dict[str, nn.Module] = {
        "rpn_conv_shared": nn.Conv2d(a.fpn_channels, a.rpn_channels, 3, 1, 1),
        "rpn_class_raw": nn.Conv2d(a.rpn_channels, 2 * anchors, 1),
        "rpn_bbox_pred": nn.Conv2d(a.rpn_channels, 4 * anchors, 1),
        "mrcnn_class_conv1": nn.Conv2d(a.fpn_channels, a.box_units, 7),
        "mrcnn_class_bn1": KerasBatchNorm(a.box_units),
        "mrcnn_class_conv2": nn.Conv2d(a.box_units, a.box_units, 1),
        "mrcnn_class_bn2": KerasBatchNorm(a.box_units),
        "mrcnn_class_logits": nn.Linear(a.box_units, classes),
        "mrcnn_bbox_fc": nn.Linear(a.box_units, 4 * classes),
    }
    before = a.fpn_channels
    for k in range(1, 5):
        layers[f"mrcnn_mask_conv{k}"] = nn.Conv2d(before, a.mask_channels, 3, 1, 1)
        layers[f"mrcnn_mask_bn{k}"] = KerasBatchNorm(a.mask_channels)
        before = a.mask_channels
    layers["mrcnn_mask_deconv"] = nn.ConvTranspose2d(a.mask_channels, a.mask_channels, 2, 2)
    layers["mrcnn_mask"] = nn.Conv2d(a.mask_channels, classes, 1)
    return layers
