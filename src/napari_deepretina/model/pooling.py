"""RoIAlign (He et al. 2017) as sums of weighted rows: all levels and images of a batch in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

HIGHEST = 2
"""Level of the largest map, whose stride is 4."""


@dataclass(frozen=True)
class Rows:
    """The maps of a pyramid as one table.

    Attributes
    ----------
    table : (R, C) one row for each place of each map of each image.
    starts, heights, widths : (L,) int64, where the rows of a level begin, and the size of its maps.
    """

    table: Tensor
    starts: Tensor
    heights: Tensor
    widths: Tensor

    @classmethod
    def of(cls, maps: Sequence[Tensor]) -> Rows:
        """From maps (B, C, H, W), the largest first; quick where channels come last in memory."""
        sizes = torch.tensor([[m.shape[0] * m.shape[2] * m.shape[3], m.shape[2], m.shape[3]] for m in maps])
        starts = sizes[:, 0].cumsum(0) - sizes[:, 0]
        table = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, m.shape[1]) for m in maps])
        numbers = torch.stack([starts, sizes[:, 1], sizes[:, 2]]).to(table.device, non_blocking=True)
        return cls(table, *numbers.unbind())

    def pooled(
        self, boxes: Tensor, images: Tensor, side: int, *, samples: int, canonical_size: int
    ) -> Tensor:
        """What lies under each region, as torchvision's ``MultiScaleRoIAlign`` gives it.

        Parameters
        ----------
        boxes : (N, 4) float32 xyxy, in pixels of the batch.
        images : (N,) int64, the image of each.
        side : cells along either side of a region.
        samples : bilinear samples along either side of a cell.
        canonical_size : a region of this side is taken from the level of stride 16.

        Returns
        -------
        (N, side, side, C), of the table's dtype.
        """
        level = _level(boxes, canonical_size, len(self.starts))
        scale = torch.exp2(-(level + HIGHEST).to(boxes.dtype))
        x0, y0, x1, y1 = (boxes * scale[:, None]).unbind(1)
        height, width = self.heights[level], self.widths[level]
        rows, high = _places(y0, y1, height, side, samples)
        columns, wide = _places(x0, x1, width, side, samples)
        first = self.starts[level] + images * height * width
        index = (first[:, None] + rows * width[:, None])[:, :, None] + columns[:, None]
        weights = high[:, :, None] * wide[:, None]
        cells = (len(boxes), side, 2 * samples, side, 2 * samples)
        index, weights = (x.view(cells).transpose(2, 3).reshape(-1, 4 * samples**2) for x in (index, weights))
        return _summed(self.table, index, weights).view(len(boxes), side, side, self.table.shape[1])


def _level(boxes: Tensor, canonical_size: int, levels: int) -> Tensor:
    """(N,) int64: 0 for the largest map; equation 1 of Lin et al. 2017 (FPN)."""
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    told = torch.floor(4 + torch.log2(side / canonical_size) + 1e-6)
    return told.clamp(HIGHEST, HIGHEST + levels - 1).long() - HIGHEST


def _places(low: Tensor, high: Tensor, size: Tensor, side: int, samples: int) -> tuple[Tensor, Tensor]:
    """Along one axis: the two neighbours (N, side · samples · 2) of each sample, and their weights."""
    cell = ((high - low).clamp(min=1) / side)[:, None]
    cells = torch.arange(side * samples, device=low.device)
    within = (cells % samples + 0.5) / samples
    at = low[:, None] + torch.div(cells, samples, rounding_mode="floor") * cell + within * cell
    size = size[:, None]
    seen = ((at >= -1) & (at <= size)) / samples
    at = torch.minimum(at.clamp(min=0), size - 1)
    before = at.long()
    share = at - before
    after = torch.minimum(before + 1, size - 1)
    places = torch.stack([before, after], -1).flatten(1)
    return places, torch.stack([(1 - share) * seen, share * seen], -1).flatten(1)


def _summed(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """(M, C): of each row of (M, K) indices and weights, the weighted sum of the table's rows."""
    weights = weights.to(table.dtype)
    if table.device.type == "mps":  # which has no weighted bags
        return _gathered(table, index, weights)
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weights)


def _gathered(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """The same sums, row by row of all bags."""
    summed = table[index[:, 0]] * weights[:, :1]
    for k in range(1, index.shape[1]):
        summed = summed + table[index[:, k]] * weights[:, k : k + 1]
    return summed
