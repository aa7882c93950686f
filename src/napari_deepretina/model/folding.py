"""A trained network's layers as inference wants them: the same function in fewer steps."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)


class Pointwise(nn.Module):
    """A 1 × 1 convolution as a product of matrices, which is what it is where channels come last."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.detach().flatten(1))
        self.bias = convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W), both with channels last in memory."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


def folded(module: M) -> M:
    """A copy in evaluation mode: each batch-norm is part of the convolution before it.

    Parameters
    ----------
    module : one whose children run in the order in which they were added, as far as batch-norm goes.
    """
    return _fold(copy.deepcopy(module).eval().requires_grad_(False))


def _fold(module: M) -> M:
    last: tuple[str, nn.Conv2d] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and last is not None:
            setattr(module, last[0], _quick(fuse_conv_bn_eval(last[1], child)))
            setattr(module, name, nn.Identity())
            last = None
            continue
        if last is not None:
            setattr(module, last[0], _quick(last[1]))
        last = (name, child) if isinstance(child, nn.Conv2d) else None
        _fold(child)
    if last is not None:
        setattr(module, last[0], _quick(last[1]))
    return module


def _quick(convolution: nn.Conv2d) -> nn.Module:
    plain = convolution.kernel_size == convolution.stride == (1, 1) and convolution.groups == 1
    return Pointwise(convolution) if plain else convolution.to(memory_format=torch.channels_last)
