"""Images as a network from torchvision's parts takes them."""

from __future__ import annotations

import torch
from torch import Tensor

STRIDE = 64
"""Height and width of a batch are multiples of this, the stride of P6."""


def size_of(images: Tensor) -> tuple[int, int]:
    """(height, width) of a batch (B, 3, H, W); ValueError unless they are multiples of STRIDE."""
    height, width = images.shape[-2:]
    if height % STRIDE or width % STRIDE:
        raise ValueError(f"height and width must be multiples of {STRIDE}, got {height}×{width}")
    return int(height), int(width)


def prepared(images: Tensor) -> Tensor:
    """What the backbone is given of (B, 3, H, W) images normalised to about 0…1."""
    return images.contiguous(memory_format=torch.channels_last) * 4.0 - 1.0
