"""Heads learn from lessons: quickly, and never far from where they began."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_deepretina.errors import UserError
from napari_deepretina.inference.steps import Progress, Steps
from napari_deepretina.teaching.heads import Heads
from napari_deepretina.teaching.lesson import GROUND, NEAR, RIGHT, SURE, WRONG, Examples, Lesson

if TYPE_CHECKING:
    from napari_deepretina.model.network import MaskRCNN

STEPS, MORE, WARM_UP = 150, 50, 5
"""At most, to see whether learning helps; then, with what had been kept aside; and until the rate is full."""
RATE, CAREFULLY = 3e-4, 0.3
"""Learning rate of what tells nuclei from background, and the share of it for boxes and masks: few outlines
teach little, and too much of it spoils them."""
BATCH, MASKS, MASKS_EVERY = 128, 8, 2
"""Examples of a step, masks of a step, and how many steps pass between masks."""
SHARES = {RIGHT: 1.0, NEAR: 0.7, WRONG: 0.7, SURE: 0.5, GROUND: 0.5}
"""How often kinds of examples are drawn, in all."""
HELD = 0.5
"""How far the heads go from where they began to where learning led: the mean of the weights of both keeps
what the first knew, and most of what the second learnt (Wortsman et al. 2022, *Robust fine-tuning of
zero-shot models*)."""
LOOK_EVERY, PATIENCE = 10, 4
"""Steps between looks at what is kept aside, and how many looks may pass without progress."""


def learn(
    network: MaskRCNN,
    lessons: Sequence[Lesson],
    *,
    aside: Tensor | None = None,
    begin: Heads | None = None,
    half: bool = False,
) -> Steps[tuple[Heads, int]]:
    """Teach copies of a network's heads; the same lessons, the same heads.

    Parameters
    ----------
    network : stays as it is.
    lessons : together they need one nucleus that is right, or one detection that is wrong.
    aside : (K,) int64, corrections, counted over all lessons, that are not learnt from: learning ends where
        they are told best, after `STEPS` at most.
    begin : heads that learnt already, to go on from for `MORE` steps; they stay as they are.
    half : whether bfloat16 will do where it is exact enough.

    Returns
    -------
    the heads as learning left them, see `between`, and after how many steps they were so.

    Raises
    ------
    UserError
        If the lessons hold nothing.
    """
    start, heads = Heads(network), copy.deepcopy(begin or Heads(network)).requires_grad_(True)
    parts = [_joined(lessons, name) for name in ("anchors", "regions", "masks")]
    kept = None
    if aside is not None and len(aside):
        kept = [part[torch.isin(part.owner, aside)] for part in parts]
        parts = [part[~torch.isin(part.owner, aside)] for part in parts]
    if not sum(map(len, parts)):
        raise UserError("there is nothing to learn where the corrections are: correct nuclei elsewhere, too")
    chances = [_chances(part.kind) for part in parts]
    optimizer = _optimizer(heads)
    draw = torch.Generator().manual_seed(0)
    steps, first = (STEPS, 0) if begin is None else (MORE, STEPS - MORE)
    best, best_loss, best_step, since = heads, float("inf"), steps, 0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * group["share"] * min(1, (step + 1) / WARM_UP) * (1 - (first + step) / STEPS)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = _loss(heads, parts, chances, draw, masks=step % MASKS_EVERY == 0)
        torch.autograd.backward(loss)
        optimizer.step()
        if step % LOOK_EVERY == LOOK_EVERY - 1:
            yield Progress((step + 1) / steps, "learning")
            if kept is not None:
                told = _told(between(start, heads), kept)
                since += 1
                if told < best_loss:
                    best, best_loss, best_step, since = copy.deepcopy(heads), told, step + 1, 0
                if since >= PATIENCE:
                    break
    return best.requires_grad_(False), best_step


def between(start: Heads, end: Heads, share: float = HELD) -> Heads:
    """Heads part of the way from one to another."""
    held = copy.deepcopy(start)
    with torch.no_grad():
        for mine, theirs in zip(held.parameters(), end.parameters(), strict=True):
            mine.lerp_(theirs, share)
    return held.requires_grad_(False)


def _joined(lessons: Sequence[Lesson], name: str) -> Examples:
    """Examples of all lessons for one head, their corrections counted over all of them."""
    first, parts = 0, []
    for lesson in lessons:
        parts.append(getattr(lesson, name).counted_from(first))
        first += lesson.corrections
    return Examples.joined(parts)


def _optimizer(heads: Heads) -> torch.optim.Optimizer:
    outlines = {name for name, _ in heads.named_parameters() if "mask" in name or "bbox" in name}
    groups = [
        {"params": [p for n, p in heads.named_parameters() if (n in outlines) == careful], "share": share}
        for careful, share in ((False, 1.0), (True, CAREFULLY))
    ]
    return torch.optim.AdamW(groups, lr=RATE, weight_decay=0.0, fused=True)


def _loss(
    heads: Heads, parts: Sequence[Examples], chances: Sequence[Tensor], draw: torch.Generator, *, masks: bool
) -> Tensor:
    """Of a few examples, drawn anew at each call."""
    anchors, regions, shapes = (part[_drawn(c, draw)] for part, c in zip(parts, chances, strict=True))
    loss = _anchor_loss(heads, anchors) + _region_loss(heads, regions)
    if masks and len(shapes):
        loss = loss + _mask_loss(heads, shapes[torch.arange(min(MASKS, len(shapes)))])
    return loss


def _chances(kind: Tensor) -> Tensor:
    """(N,) how probable each example is drawn: kinds by their shares, whatever their numbers."""
    chances = torch.zeros(len(kind))
    for one, share in SHARES.items():
        mine = kind == one
        chances[mine] = share / mine.sum().clamp(min=1)
    return chances


def _drawn(chances: Tensor, draw: torch.Generator) -> Tensor:
    if not len(chances):
        return torch.zeros(0, dtype=torch.long)
    return torch.multinomial(chances, min(BATCH, len(chances)), replacement=True, generator=draw)


def _anchor_loss(heads: Heads, some: Examples) -> Tensor:
    if not len(some):
        return torch.zeros(())
    logits, deltas = (out.float() for out in heads.objectness(some.features.float()))
    each = torch.arange(len(some))
    told = F.binary_cross_entropy_with_logits(logits[each, some.form], some.label.float())
    return told + _box_loss(deltas[each, some.form], some)


def _region_loss(heads: Heads, some: Examples) -> Tensor:
    if not len(some):
        return torch.zeros(())
    logits, deltas = (out.float() for out in heads.classes(some.features.float()))
    return F.cross_entropy(logits, some.label) + _box_loss(deltas[:, 1], some)


def _box_loss(deltas: Tensor, some: Examples) -> Tensor:
    on = some.label == 1
    return F.smooth_l1_loss(deltas[on], some.target[on], beta=1 / 9, reduction="sum") / len(some)


def _mask_loss(heads: Heads, some: Examples) -> Tensor:
    return F.binary_cross_entropy_with_logits(heads.shapes(some.features.float())[:, 1].float(), some.target)


@torch.no_grad()
def _told(heads: Heads, aside: Sequence[Examples]) -> float:
    """How badly nuclei and background are told apart among what is kept aside."""
    anchors, regions, _ = aside
    return float(_anchor_loss(heads, anchors) + _region_loss(heads, regions))
