"""Training steps of our network and of torchvision's reference detection loop, side by side.

``python benchmarks/training_speed.py``

Same backbone (ResNet-18-FPN, 128 channels, random weights, batch-norm trained), same head widths, same crops,
same batch, same optimiser, same precision. torchvision runs twice: with as many proposals and regions as
our recipe takes, and as it comes. Making its full-frame masks from the label image is not counted: its
loaders do that in other processes. Ours clips gradients and keeps the moving average, as the loop does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import MaskRCNN as TheirMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

import measure
from napari_deepretina.data.crops import target_of
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.network import build
from napari_deepretina.model.targets import Target
from napari_deepretina.training.average import Average

SIDE, BATCH, REGIONS = 256, 8, 96
ARCHITECTURE = Architecture(backbone="resnet18", fpn_channels=128, box_units=512, mask_channels=128)
CROPS = {"ordinary": (15, 32), "crowded": (320, 9)}
"""Nuclei asked for, and their diameter in pixels."""
OURS, SAME, STOCK = "ours", "torchvision, our sampling", "torchvision as it comes"


def crops(kind: str) -> tuple[Tensor, list[Target]]:
    """(BATCH, 3, SIDE, SIDE) float32 in 0…1 and the truth of each."""
    count, diameter = CROPS[kind]
    made = [synthetic_nuclei((SIDE, SIDE), count, diameter=diameter, seed=k) for k in range(BATCH)]
    images = torch.stack([torch.from_numpy(i / 255).float().expand(3, -1, -1) for i, _ in made])
    return images, [target_of(labels) for _, labels in made]


def our_step(kind: str, dtype: torch.dtype) -> Callable[[], object]:
    """One step as `training.fit` does it."""
    torch.manual_seed(0)
    images, targets = crops(kind)
    network = build(ARCHITECTURE, seed=0).train()
    network.regions.regions_per_image, network.regions.positive_fraction = REGIONS, 0.25
    average = Average(network, 0.998)

    def losses() -> dict[str, Tensor]:
        return network(images, targets)

    return _step(network, losses, dtype, after=lambda: average.update(network))


def their_step(kind: str, dtype: torch.dtype, *, stock: bool) -> Callable[[], object]:
    """One step of the reference loop."""
    torch.manual_seed(0)
    images, targets = crops(kind)
    truth = [
        {
            "boxes": t.boxes,
            "labels": t.classes,
            "masks": (t.labels[None] == t.ids[:, None, None]).to(torch.uint8),
        }
        for t in targets
    ]
    network = their_network(stock=stock).train()

    def losses() -> dict[str, Tensor]:
        return network(list(images), [dict(t) for t in truth])

    return _step(network, losses, dtype)


def _step(
    network: nn.Module,
    losses: Callable[[], dict[str, Tensor]],
    dtype: torch.dtype,
    after: Callable[[], object] | None = None,
) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = sum(losses().values())
        loss.backward()
        if after:
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        if after:
            after()

    return step


def their_network(*, stock: bool) -> TheirMaskRCNN:
    """A Mask R-CNN of torchvision with our backbone, anchors and head widths."""
    a = ARCHITECTURE
    body = resnet18(weights=None)
    backbone = BackboneWithFPN(
        body,
        {f"layer{i + 1}": str(i) for i in range(4)},
        [64, 128, 256, 512],
        a.fpn_channels,
        extra_blocks=LastLevelMaxPool(),
        norm_layer=nn.BatchNorm2d,
    )
    sampling: dict[str, Any] = {}
    if not stock:
        sampling = {
            "rpn_pre_nms_top_n_train": 600, "rpn_post_nms_top_n_train": 600,
            "box_batch_size_per_image": REGIONS, "box_positive_fraction": 0.25,
        }  # fmt: skip
    return TheirMaskRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(
            tuple((s,) for s in a.anchor_sizes), (a.aspect_ratios,) * len(a.anchor_sizes)
        ),
        box_head=TwoMLPHead(a.fpn_channels * 49, a.box_units),
        box_predictor=FastRCNNPredictor(a.box_units, a.num_classes),
        mask_head=MaskRCNNHeads(a.fpn_channels, (a.mask_channels,) * 4, 1, norm_layer=nn.BatchNorm2d),
        mask_predictor=MaskRCNNPredictor(a.mask_channels, a.mask_channels, a.num_classes),
        min_size=SIDE,
        max_size=SIDE,
        **sampling,
    )


CONTESTANTS: dict[str, Callable[[str, torch.dtype], Callable[[], object]]] = {
    OURS: our_step,
    SAME: partial(their_step, stock=False),
    STOCK: partial(their_step, stock=True),
}


def main() -> None:
    """Print the table."""
    torch.set_num_threads(2)
    rows: list[list[object]] = []
    for kind in CROPS:
        nuclei = sum(len(t.ids) for t in crops(kind)[1]) / BATCH
        for dtype in (torch.float32, torch.bfloat16):
            megabytes = {n: measure.peak_megabytes(work, kind, dtype) for n, work in CONTESTANTS.items()}
            seconds = measure.side_by_side(
                {n: work(kind, dtype) for n, work in CONTESTANTS.items()}, runs=5, warmup=2
            )
            for name in CONTESTANTS:
                rows.append(
                    [f"{kind}, {nuclei:.0f} nuclei", str(dtype).removeprefix("torch."), name,
                     f"{BATCH / seconds[name]:.2f}", f"{seconds[name] / seconds[OURS]:.2f}",
                     f"{megabytes[name]:.0f}", f"{megabytes[name] / megabytes[OURS]:.2f}"]
                )  # fmt: skip
    print(f"batch of {BATCH} crops of {SIDE}², CPU, {torch.get_num_threads()} threads, median of 5 steps")
    print(measure.table(
        ["crops", "precision", "loop", "images/s", "seconds, ours = 1", "peak MB", "MB, ours = 1"], rows
    ))  # fmt: skip


if __name__ == "__main__":
    main()
