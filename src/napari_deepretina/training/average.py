"""Exponential moving average of weights (Polyak averaging)."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


class Average(Generic[N]):
    """A second network that follows the first; it is what gets validated and shipped.

    The decay starts small and rises as (1 + n) / (10 + n), so that random initial weights are
    forgotten quickly. With decay 0 the average is the network itself.
    """

    def __init__(self, network: N, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.network: N = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Follow one step."""
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = network.state_dict()
        averaged = [(a, current[k]) for k, a in self.network.state_dict().items()]
        floating = [(a, c) for a, c in averaged if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floating], [c for _, c in floating], 1 - keep)
        for a, c in averaged:
            if not a.is_floating_point():
                a.copy_(c)
