"""One training image of 1024×1024 with 500 nuclei: our mask loss and torchvision's, side by side.

``python benchmarks/training_memory.py``

Both learn from the same regions of the same image with the same network. Ours samples its targets from
the label image; torchvision's `maskrcnn_loss` wants one full-frame mask an object. The peak is what a
fresh process takes on top of network, image and label image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import maskrcnn_loss

import measure
from napari_deepretina.data.crops import target_of
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.network import build
from napari_deepretina.model.targets import Target, mask_targets

SIDE, NUCLEI, REGIONS = 1024, 500, 170
"""170 positive regions are a third of the 512 that torchvision samples from an image."""
OURS, THEIRS = "ours", "torchvision"


def field() -> tuple[Tensor, Target]:
    """(1, 3, SIDE, SIDE) float32 in 0…1 and its truth."""
    image, labels = synthetic_nuclei((SIDE, SIDE), NUCLEI, diameter=30, seed=5)
    return torch.from_numpy(image / 255).float().expand(1, 3, -1, -1), target_of(labels)


def full_frame_masks(target: Target) -> Tensor:
    """(G, H, W) uint8, what torchvision's data sets hold."""
    return (target.labels[None] == target.ids[:, None, None].to(torch.int32)).to(torch.uint8)


def their_loss(logits: Tensor, regions: Tensor, target: Target, matched: Tensor) -> Tensor:
    """The loss of torchvision, on full-frame masks."""
    loss: Tensor = maskrcnn_loss(logits, [regions], [full_frame_masks(target)], [target.classes], [matched])
    return loss


def our_loss(logits: Tensor, regions: Tensor, target: Target, matched: Tensor) -> Tensor:
    """As `RegionHeads` computes it."""
    wanted = mask_targets(target.labels, target.ids[matched], regions, logits.shape[-1])
    return torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 1], wanted)


LOSSES = {OURS: our_loss, THEIRS: their_loss}


def loss_alone(which: str) -> Callable[[], object]:
    """Forward and backward of the mask loss for given logits."""
    torch.manual_seed(0)
    _, target = field()
    matched = torch.arange(REGIONS) % len(target.boxes)
    regions = target.boxes[matched] + torch.randn(REGIONS, 4)
    logits = torch.randn(REGIONS, 2, 28, 28, requires_grad=True)
    return lambda: LOSSES[which](logits, regions, target, matched).backward()


def whole_step(which: str, dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    """Forward and backward of the whole network, in bfloat16 as the training loop does it or in float32."""
    torch.manual_seed(0)
    network = build(Architecture(backbone="resnet18", fpn_channels=128, box_units=512), seed=0).train()
    network.regions.regions_per_image, network.regions.positive_fraction = 512, 0.33
    if which == THEIRS:
        network.regions._mask_loss = their_mask_loss(network.regions)  # type: ignore[method-assign]
    image, target = field()

    def step() -> None:
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = sum(network(image, [target]).values())
        loss.backward()

    return step


def their_mask_loss(heads: Any) -> Callable[..., Tensor]:
    """The same method of `RegionHeads`, with torchvision's loss in it."""

    def loss(rows: Any, regions: Any, classes: Any, matched: Any, targets: Any, chances: Any) -> Tensor:
        positive = torch.nonzero(classes[0] > 0).flatten()
        chosen = regions[0][positive]
        logits = heads._mask_logits(rows, [chosen])
        return their_loss(logits, chosen, targets[0], matched[0][positive])

    return loss


def main() -> None:
    """Print the table."""
    torch.set_num_threads(2)
    rows: list[list[object]] = []
    contests = {
        "mask loss alone": loss_alone,
        "whole training step, float32": whole_step,
        "whole training step, bfloat16": partial(whole_step, dtype=torch.bfloat16),
    }
    for title, work in contests.items():
        megabytes = {which: measure.peak_megabytes(work, which) for which in LOSSES}
        seconds = measure.side_by_side({which: work(which) for which in LOSSES})
        for which in LOSSES:
            share = megabytes[which] / megabytes[THEIRS]
            rows.append(
                [title, which, f"{megabytes[which]:.0f}", f"{share:.2f}", f"{seconds[which]:.3f}",
                 f"{seconds[which] / seconds[THEIRS]:.2f}"]
            )  # fmt: skip
    print(f"{SIDE}×{SIDE}, {len(field()[1].ids)} nuclei, CPU, {torch.get_num_threads()} threads")
    print(measure.table(["what", "loss", "peak MB", "ratio", "seconds", "ratio"], rows))


if __name__ == "__main__":
    main()
