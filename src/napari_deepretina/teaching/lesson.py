"""What there is to learn in one look at an image: features of anchors and regions, with the truth of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from napari_deepretina.inference.plan import make_plan
from napari_deepretina.inference.predict import lay_out
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.batch import size_of
from napari_deepretina.model.detector import Detector
from napari_deepretina.model.pooling import Rows
from napari_deepretina.model.targets import mask_targets

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_deepretina.inference.plan import Plan
    from napari_deepretina.model.weights import LoadedModel
    from napari_deepretina.teaching.corrections import Corrections

RIGHT, NEAR, WRONG, SURE, GROUND = range(5)
"""Kinds of examples: on a nucleus that is right, beside one, on a detection that was deleted, on a nucleus
that the network is sure of, and where it is sure that there is none."""
MOST = {RIGHT: 16, NEAR: 16, WRONG: 8, SURE: 2, GROUND: 400}
"""Examples that are kept, at most: of each nucleus; of the ground, in all."""
TOGETHER = 2000
"""Examples of a kind that are kept in all."""
JITTERED, JITTER = 8, 0.15
"""Regions around a nucleus that are learnt from besides those proposed, and how far their sides are moved, as
a share of its own."""
MASKS = 4
"""Regions of a nucleus whose mask is learnt."""
BACKGROUND, EMPTY = 0.02, 0.05
"""Objectness and score below which the network is sure that there is nothing."""
MET = 0.01
"""IoU from which on two boxes meet."""
AT_ONCE = 8_192
"""Anchors that are compared with nuclei together; memory grows with it."""


@dataclass(frozen=True)
class Examples:
    """N things to learn, along the first axis of all fields.

    Attributes
    ----------
    features : (N, C, S, S), of the maps' precision.
    kind : (N,) int64, RIGHT … GROUND.
    owner : (N,) int64, the correction that an example belongs to; -1 for none.
    target : of anchors and regions (N, 4) float32, deltas to the true box, zero where there is none; of masks
        (N, 28, 28) float32.
    form : (N,) int64, of anchors the aspect ratio; 0 for others.
    """

    features: Tensor
    kind: Tensor
    owner: Tensor
    target: Tensor
    form: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, index: Tensor) -> Examples:
        return Examples(*(getattr(self, f.name)[index] for f in fields(self)))

    @property
    def label(self) -> Tensor:
        """(N,) int64, 1 for nuclei."""
        return ((self.kind == RIGHT) | (self.kind == SURE)).long()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(getattr(self, f.name).nbytes for f in fields(self))

    def counted_from(self, first: int) -> Examples:
        """The same, with corrections counted from another number than 0."""
        return replace(self, owner=torch.where(self.owner >= 0, self.owner + first, -1))

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """One after the other."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))


@dataclass(frozen=True)
class Lesson:
    """What one look at an image has to teach: examples for each of the heads, and how many corrections."""

    anchors: Examples
    regions: Examples
    masks: Examples
    corrections: int

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.anchors.nbytes + self.regions.nbytes + self.masks.nbytes


@dataclass(frozen=True)
class _Truth:
    """Boxes (N, 4) xyxy of what is known, in pixels of the network's input, and ids of `nuclei`."""

    right: Tensor
    ids: Tensor
    sure: Tensor
    doubtful: Tensor
    wrong: Tensor

    @classmethod
    def of(cls, corrections: Corrections, zoom: Tensor) -> _Truth:
        import numpy as np

        present = np.unique(corrections.labels)
        doubtful = np.setdiff1d(present[present > 0], [*corrections.right, *corrections.sure])
        boxes = (torch.from_numpy(corrections.boxes_of(ids)).view(-1, 4) * zoom for ids in
                 (corrections.right, corrections.sure, doubtful))  # fmt: skip
        right, sure, rest = boxes
        wrong = torch.from_numpy(np.asarray(corrections.wrong, np.float32)).view(-1, 4) * zoom
        ids = torch.from_numpy(np.concatenate([np.sort(corrections.right), np.sort(corrections.sure)]))
        return cls(right, ids, sure, rest, wrong)

    @property
    def nuclei(self) -> Tensor:
        """(R + S, 4) boxes of those that are right, then of those that the network is sure of."""
        return torch.cat([self.right, self.sure])

    def kinds(self, boxes: Tensor, empty: Tensor, high: float, low: float) -> tuple[Tensor, Tensor, Tensor]:
        """Kind and owner of boxes (N, 4), -1 for what is left out, and which of `nuclei` they lie on.

        Parameters
        ----------
        empty : (N,) bool, where the network is sure that there is nothing.
        high, low : IoU from which on a box lies on a nucleus, and below which it lies beside it.
        """
        right, nearest = _nearest(self.right, boxes)
        sure, surest = _nearest(self.sure, boxes)
        doubtful, _ = _nearest(self.doubtful, boxes)
        wrong, deleted = _nearest(self.wrong, boxes)
        kind, owner = (torch.full((len(boxes),), -1) for _ in range(2))
        kind[empty & (torch.stack([right, sure, doubtful, wrong]) < MET).all(dim=0)] = GROUND
        clear = (sure < low) & (doubtful < 10 * MET) & (right < low)
        beside = clear & (right >= 5 * MET) & (wrong < 0.3)
        kind[beside], owner[beside] = NEAR, nearest[beside]
        mistaken = clear & (wrong >= 0.4)
        kind[mistaken], owner[mistaken] = WRONG, len(self.right) + deleted[mistaken]
        kind[(sure >= high) & (sure > right)] = SURE
        on = (right >= high) & (right >= sure)
        kind[on], owner[on] = RIGHT, nearest[on]
        return kind, owner, torch.where(kind == SURE, surest + len(self.right), nearest)


def lesson_of(
    model: LoadedModel, pixels: NDArray[np.float32], corrections: Corrections, scale: float
) -> Lesson:
    """Look at an image, and note what its corrections teach; the same every time.

    Parameters
    ----------
    model : not Matterport's.
    pixels : (H, W, 3) float32, the image, or a part of it, as its reading gives it.
    corrections : of these pixels.
    scale : zoom from image to network pixels.
    """
    detector = model.detector
    assert isinstance(detector, Detector)
    chance = torch.Generator().manual_seed(len(corrections))
    shape = (pixels.shape[0], pixels.shape[1])
    plan = make_plan(shape, detector.architecture, trained_diameter=model.info.diameter, scale=scale)
    with torch.inference_mode():
        inputs = lay_out(pixels, plan).to(model.device)
        size = size_of(inputs)
        maps = detector.maps(inputs)
        (considered,) = detector.consider(maps, size, Limits())
        rows = Rows.of(maps[:4])
        answers = detector.answer(rows, considered.proposals, 0, size, Limits())
        truth = _Truth.of(corrections, _zoom(plan))
        anchors = _anchors(detector, maps, size, truth, chance)
        around = _around(truth.right, chance)
        regions = torch.cat([considered.proposals.cpu(), around])
        empty = torch.cat([answers.scores.cpu() < EMPTY, torch.zeros(len(around), dtype=torch.bool)])
        boxes = _regions(detector, rows, truth, regions, empty, chance)
        masks = _masks(
            detector, rows, truth, torch.cat([answers.boxes.cpu(), truth.nuclei]), corrections, plan, chance
        )
    return Lesson(anchors, boxes, masks, len(corrections))


def _zoom(plan: Plan) -> Tensor:
    return torch.tensor([plan.scaled[1] / plan.shape[1], plan.scaled[0] / plan.shape[0]] * 2)


def _nearest(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Highest IoU (N,) of each of the others with one of the boxes, and which (N,)."""
    if not len(boxes):
        return torch.zeros(len(others)), torch.zeros(len(others), dtype=torch.long)
    iou, place = box_iou(boxes, others).max(dim=0)
    return iou, place


def _around(boxes: Tensor, chance: torch.Generator) -> Tensor:
    """Boxes, and more around them."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = [
        boxes + (2 * torch.rand(boxes.shape, generator=chance) - 1) * JITTER * sides for _ in range(JITTERED)
    ]
    return torch.cat([*moved, boxes])


def _chosen(kind: Tensor, owner: Tensor, truth: _Truth, chance: torch.Generator) -> Tensor:
    """Places of examples to keep: at random, at most so many of each kind and correction."""
    order = torch.randperm(len(kind), generator=chance)
    kept = [
        order[kind[order] == GROUND][: MOST[GROUND]],
        order[kind[order] == SURE][: min(TOGETHER, MOST[SURE] * len(truth.sure))],
    ]
    for one in (RIGHT, NEAR, WRONG):
        kept.append(_of_each(order[kind[order] == one], owner, MOST[one]))
    return torch.cat(kept)


def _of_each(places: Tensor, owner: Tensor, most: int) -> Tensor:
    """At most so many of the places of each owner, fewer of each where there are many owners."""
    owners = sorted(set(owner[places].tolist()))
    most = max(1, min(most, TOGETHER // max(1, len(owners))))
    mine = owner[places]
    kept = [places[mine == who][:most] for who in owners[:TOGETHER]]
    return torch.cat([places[:0], *kept])


def _anchors(
    detector: Detector, maps: list[Tensor], size: tuple[int, int], truth: _Truth, chance: torch.Generator
) -> Examples:
    """Places of the maps with what is around them, for the proposal head."""
    logits, _ = detector.rate(maps)
    counts = [level.shape[1] for level in logits]
    places = [torch.arange(count, device=maps[0].device) for count in counts]
    boxes = torch.cat(
        [detector.anchors_at(k, p, size, m.shape) for k, (p, m) in enumerate(zip(places, maps, strict=True))]
    ).cpu()
    empty = torch.cat([level[0].sigmoid() for level in logits]).cpu() < BACKGROUND
    kind, owner, place = (torch.full((len(boxes),), -1) for _ in range(3))
    best, best_at = torch.zeros(len(truth.right)), torch.zeros(len(truth.right), dtype=torch.long)
    for start in range(0, len(boxes), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        kind[part], owner[part], place[part] = truth.kinds(boxes[part], empty[part], 0.7, 0.3)
        if len(truth.right):
            iou, at = box_iou(truth.right, boxes[part]).max(dim=1)
            better = iou > best
            best[better], best_at[better] = iou[better], at[better] + start
    kind[best_at] = RIGHT
    owner[best_at] = place[best_at] = torch.arange(len(truth.right))
    kept = _chosen(kind, owner, truth, chance)
    kind, owner = kind[kept], owner[kept]
    forms = detector.cells.shape[1]
    starts = torch.tensor([0, *counts]).cumsum(0)
    level = torch.searchsorted(starts, kept, right=True) - 1
    cell, form = (kept - starts[level]) // forms, (kept - starts[level]) % forms
    features = maps[0].new_zeros((len(kept), maps[0].shape[1], 3, 3), device="cpu")
    for number, found in enumerate(maps):
        mine = torch.nonzero(level == number).flatten()
        y, x = cell[mine] // found.shape[-1], cell[mine] % found.shape[-1]
        padded = F.pad(found[0], (1, 1, 1, 1)).cpu()
        for down in range(3):
            for right in range(3):
                features[mine, :, down, right] = padded[:, y + down, x + right].T
    target = _deltas(detector.first_coder, truth.nuclei, kind, place[kept], boxes[kept])
    return Examples(features, kind, owner, target, form)


def _regions(
    detector: Detector, rows: Rows, truth: _Truth, regions: Tensor, empty: Tensor, chance: torch.Generator
) -> Examples:
    """Regions with what is in them, for the box head."""
    kind, owner, place = truth.kinds(regions, empty, 0.5, 0.5)
    kept = _chosen(kind, owner, truth, chance)
    kind, owner, regions = kind[kept], owner[kept], regions[kept]
    target = _deltas(detector.second_coder, truth.nuclei, kind, place[kept], regions)
    return Examples(_pooled(detector, rows, regions, 7), kind, owner, target, torch.zeros_like(kind))


def _masks(
    detector: Detector,
    rows: Rows,
    truth: _Truth,
    boxes: Tensor,
    corrections: Corrections,
    plan: Plan,
    chance: torch.Generator,
) -> Examples:
    """Boxes as they are where masks are drawn, with the true masks, for the mask head."""
    kind, owner, place = truth.kinds(boxes, torch.zeros(len(boxes), dtype=torch.bool), 0.5, 0.5)
    order = torch.randperm(len(boxes), generator=chance)
    order = order[(kind[order] == RIGHT) | (kind[order] == SURE)]
    kept = _of_each(order, place, MASKS)
    kind, owner, boxes = kind[kept], owner[kept], boxes[kept]
    labels = torch.from_numpy(corrections.labels)
    wanted = mask_targets(labels, truth.ids[place[kept]], boxes / _zoom(plan), detector.mask_size)
    pooled = _pooled(detector, rows, boxes, detector.mask_size // 2)
    return Examples(pooled, kind, owner, wanted, torch.zeros_like(kind))


def _pooled(detector: Detector, rows: Rows, boxes: Tensor, side: int) -> Tensor:
    return detector.pooled(rows, boxes.to(rows.table.device), 0, side).permute(0, 3, 1, 2).cpu()


def _deltas(coder: Any, nuclei: Tensor, kind: Tensor, place: Tensor, boxes: Tensor) -> Tensor:
    """(N, 4) from boxes to the nuclei that they lie on; zero elsewhere."""
    deltas = torch.zeros(len(boxes), 4)
    on = torch.nonzero((kind == RIGHT) | (kind == SURE)).flatten()
    if len(on):
        deltas[on] = coder.encode_single(nuclei[place[on]], boxes[on])
    return deltas
