"""Mask R-CNN as inference wants it: the answers of the network that was trained, in fewer steps."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.batch import prepared, size_of
from napari_deepretina.model.folding import folded
from napari_deepretina.model.pooling import Rows
from napari_deepretina.model.regions import Detections

if TYPE_CHECKING:
    from napari_deepretina.model.network import MaskRCNN

BOXES_AT_ONCE = 1024
"""Regions that the box head looks at together; memory grows with it, the result does not change."""


@dataclass(frozen=True)
class Considered:
    """What the first stage makes of one image.

    Attributes
    ----------
    places : (K,) int64 of the anchors that are sure enough and among the surest of their level.
    boxes : (K, 4) xyxy of them, moved and clipped.
    kept : (P,) int64, those of the K that non-maximum suppression leaves, surest first: the proposals.
    """

    places: Tensor
    boxes: Tensor
    kept: Tensor

    @property
    def proposals(self) -> Tensor:
        """(P, 4) xyxy."""
        return self.boxes[self.kept]


@dataclass(frozen=True)
class Answers:
    """What the box head makes of the proposals of one image.

    Attributes
    ----------
    scores, classes : (P,) of the best class.
    boxes : (P, 4) xyxy, moved for that class and clipped.
    kept : (D,) int64, those of the P that are detections, surest first.
    """

    scores: Tensor
    classes: Tensor
    boxes: Tensor
    kept: Tensor


class Detector(nn.Module):
    """A trained network for inference: batch-norm folded, channels last throughout, in any precision.

    Objectness, scores and boxes are float32 in any precision. Nothing is shared with the network.

    Parameters
    ----------
    network : the one that was trained.
    dtype : of weights and maps: float32, bfloat16 or float16.
    """

    def __init__(self, network: MaskRCNN, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.architecture = network.architecture
        self.dtype = dtype
        self.pyramid = folded(network.backbone)
        first, second = network.proposals, network.regions
        self.cells: Tensor  # (levels, A, 4), anchors around the middle of a place
        self.register_buffer("cells", torch.stack(first.anchor_generator.cell_anchors))
        self.first_coder, self.second_coder = first.box_coder, second.coder
        self.smallest: float = first.min_size
        self.objectness = folded(first.head.conv)
        self.first_answers = _stacked(first.head.cls_logits, first.head.bbox_pred)
        self.box_layers = nn.ModuleList([_channels_last(second.box_head.fc6), _copied(second.box_head.fc7)])
        self.second_answers = _stacked(second.box_predictor.cls_score, second.box_predictor.bbox_pred)
        self.mask_head = folded(second.mask_head)
        self.mask_enlarged, self.mask_answers = _enlarging(second.mask_predictor)
        self.mask_size: int = second.mask_size
        for part in (self.pyramid, self.objectness, self.box_layers, self.mask_head,
                     self.mask_enlarged, self.mask_answers):  # fmt: skip
            part.to(dtype)
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def detect(
        self, images: Tensor, limits: Limits | None = None, windows: Tensor | None = None
    ) -> Generator[float, None, list[Detections]]:
        """Raw detections of each image, in steps, so that a caller can show progress and cancel.

        Parameters
        ----------
        images : (B, 3, H, W) float32, normalised to about 0…1, H and W multiples of STRIDE.
        limits : floors and caps of what is returned.
        windows : where the images lie in the batch; it makes no difference to this network.

        Yields
        ------
        float
            Share of the work done, 0…1.

        Returns
        -------
        one Detections an image, highest score first, boxes in pixels of the batch, masks as uint8.
        """
        limits = limits or Limits()
        size = size_of(images)
        maps = self.maps(images)
        yield 0.4
        proposals = [c.proposals for c in self.consider(maps, size, limits)]
        yield 0.5
        rows = Rows.of(maps[:4])
        del maps
        found = [self.answer(rows, regions, image, size, limits) for image, regions in enumerate(proposals)]
        yield 0.65
        done, total = 0, max(1, sum(len(answer.kept) for answer in found))
        detections = []
        for image, answer in enumerate(found):
            boxes, classes = answer.boxes[answer.kept], answer.classes[answer.kept]
            masks = [boxes.new_zeros((0, self.mask_size, self.mask_size), dtype=torch.uint8)]
            for start in range(0, len(boxes), limits.masks_at_once):
                some = slice(start, start + limits.masks_at_once)
                shapes = self.shapes(rows, boxes[some], classes[some], image)
                masks.append((shapes * 255).round().to(torch.uint8))
                done += len(shapes)
                yield 0.65 + 0.35 * done / total
            detections.append(Detections(boxes, answer.scores[answer.kept], classes, torch.cat(masks)))
        return detections

    # ---- the steps, each with what it takes and gives ----

    def maps(self, images: Tensor) -> list[Tensor]:
        """P2…P6 of images as `detect` takes them: (B, C, H / stride, W / stride) each, of our dtype."""
        return list(self.pyramid(self.laid(images)).values())

    def laid(self, images: Tensor) -> Tensor:
        """What the backbone is given of images as `detect` takes them."""
        return prepared(images).to(self.dtype)

    def rate(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each level the anchors' logits (B, A) and deltas (B, A, 4), float32."""
        kinds = self.cells.shape[1]
        logits, deltas = [], []
        for level in maps:
            hidden = self.objectness(level).permute(0, 2, 3, 1)
            answers = self.first_answers(hidden.float())
            logits.append(answers[..., :kinds].flatten(1))
            deltas.append(answers[..., kinds:].reshape(len(level), -1, 4))
        return logits, deltas

    def anchors_at(self, level: int, places: Tensor, size: tuple[int, int], shape: torch.Size) -> Tensor:
        """(N, 4) xyxy of the anchors at some places of a level's map.

        Parameters
        ----------
        places : (N,) int64, counted as `rate` orders them.
        size : of the batch.
        shape : of the level's map.
        """
        base = self.cells[level]
        cell, kind = places // len(base), places % len(base)
        y = torch.div(cell, shape[-1], rounding_mode="floor") * (size[0] // shape[-2])
        x = cell % shape[-1] * (size[1] // shape[-1])
        return torch.stack([x, y, x, y], 1) + base[kind]

    def consider(self, maps: list[Tensor], size: tuple[int, int], limits: Limits) -> list[Considered]:
        """The first stage: proposals of each image of a batch of this (height, width)."""
        logits, deltas = self.rate(maps)
        starts = [0]
        for level in logits:
            starts.append(starts[-1] + level.shape[1])
        considered = []
        for image in range(len(maps[0])):
            parts = []
            for number, (level, moves) in enumerate(zip(logits, deltas, strict=True)):
                surest, places = level[image].topk(min(limits.proposals_per_level, level.shape[1]))
                anchors = self.anchors_at(number, places, size, maps[number].shape)
                boxes = self.first_coder.decode_single(moves[image][places], anchors)
                levels = torch.full_like(places, number)
                parts.append((places + starts[number], boxes, surest.sigmoid(), levels))
            places, boxes, chances, levels = (torch.cat(column) for column in zip(*parts, strict=True))
            boxes = clip_boxes_to_image(boxes, size)
            wide = ((boxes[:, 2:] - boxes[:, :2]) >= self.smallest).all(dim=1)
            wanted = torch.nonzero(wide & (chances >= limits.objectness)).flatten()
            places, boxes, chances, levels = places[wanted], boxes[wanted], chances[wanted], levels[wanted]
            kept = batched_nms(boxes, chances, levels, limits.proposal_nms)[: limits.proposals]
            considered.append(Considered(places, boxes, kept))
        return considered

    def answer(
        self, rows: Rows, regions: Tensor, image: int, size: tuple[int, int], limits: Limits
    ) -> Answers:
        """The second stage: best class of each proposal, refined, clipped, thinned by a loose NMS.

        Parameters
        ----------
        regions : (P, 4) xyxy, the proposals of one image of the batch, whose (height, width) is `size`.
        """
        logits, deltas = self._box_answers(rows, regions, image)
        scores, classes = logits.softmax(-1)[:, 1:].max(dim=1)
        classes = classes + 1
        chosen = deltas[torch.arange(len(classes), device=classes.device), classes]
        boxes = clip_boxes_to_image(self.second_coder.decode_single(chosen, regions), size)
        sure = (scores >= limits.score) & ((boxes[:, 2:] - boxes[:, :2]).amin(dim=1) >= 1.0)
        sure = torch.nonzero(sure).flatten()
        kept = batched_nms(boxes[sure], scores[sure], classes[sure], limits.nms)[: limits.detections]
        return Answers(scores, classes, boxes, sure[kept])

    def shapes(self, rows: Rows, boxes: Tensor, classes: Tensor, image: int) -> Tensor:
        """(N, S, S) float32 probabilities of each box's class, in one image of the batch."""
        side = self.mask_size // 2
        pooled = self.pooled(rows, boxes, image, side).permute(0, 3, 1, 2)
        hidden = F.relu(self.mask_enlarged(self.mask_head(pooled).permute(0, 2, 3, 1)), inplace=True)
        # each place becomes two by two
        channels = self.mask_answers.in_features
        logits: Tensor = self.mask_answers(hidden.view(len(boxes), side, side, 2, 2, channels))
        chosen = logits[torch.arange(len(boxes), device=boxes.device), ..., classes].float()
        return chosen.transpose(2, 3).reshape(len(boxes), 2 * side, 2 * side).sigmoid()

    def _box_answers(self, rows: Rows, regions: Tensor, image: int) -> tuple[Tensor, Tensor]:
        """Logits (P, classes) and deltas (P, classes, 4), float32."""
        answers = [self.second_answers.weight.new_zeros((0, self.second_answers.out_features))]
        for some in torch.split(regions, BOXES_AT_ONCE) if len(regions) else ():
            hidden = self.pooled(rows, some, image, 7).flatten(1)
            for layer in self.box_layers:
                hidden = F.relu(layer(hidden), inplace=True)
            answers.append(self.second_answers(hidden.float()))
        classes = self.architecture.num_classes
        logits, deltas = torch.cat(answers).tensor_split([classes], dim=1)
        return logits, deltas.reshape(-1, classes, 4)

    def pooled(self, rows: Rows, boxes: Tensor, image: int, side: int) -> Tensor:
        """(N, side, side, C) of what lies under boxes (N, 4) in one image of the batch."""
        return rows.pooled(
            boxes,
            torch.full((len(boxes),), image, device=boxes.device),
            side,
            samples=self.architecture.roi_samples,
            canonical_size=self.architecture.roi_canonical_size,
        ).to(self.dtype)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = (nn.Parameter(x.detach().clone().contiguous()) for x in (weight, bias))
    return layer


def _copied(layer: nn.Module) -> nn.Linear:
    """The same product of matrices."""
    return _linear(cast(Tensor, layer.weight).flatten(1), cast(Tensor, layer.bias))


def _stacked(*layers: nn.Module) -> nn.Linear:
    """Several layers over the same channels as one."""
    each = [_copied(layer) for layer in layers]
    return _linear(torch.cat([e.weight for e in each]), torch.cat([e.bias for e in each]))


def _channels_last(layer: nn.Linear) -> nn.Linear:
    """For pooled regions of 7 × 7 × C, not C × 7 × 7."""
    weight = layer.weight.view(len(layer.weight), -1, 7, 7).permute(0, 2, 3, 1).flatten(1)
    return _linear(weight, layer.bias)


def _enlarging(predictor: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """A transposed convolution of 2 × 2, stride 2, whose outputs do not overlap, as a product of matrices."""
    enlarging = cast(nn.ConvTranspose2d, predictor.conv5_mask)
    weight = enlarging.weight.permute(2, 3, 1, 0).flatten(0, 2)
    bias = cast(Tensor, enlarging.bias).repeat(4)
    return _linear(weight, bias), _copied(cast(nn.Module, predictor.mask_fcn_logits))
