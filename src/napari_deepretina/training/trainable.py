"""What a stage trains, and with which optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from napari_deepretina.model.network import Network
from napari_deepretina.training.recipe import Stage

_FROZEN_STAGES = {"heads": (1, 2, 3, 4, 5), "5+": (1, 2, 3, 4), "4+": (1, 2, 3), "3+": (1, 2), "all": ()}
"""Stages of the backbone that stay as they are, by what is trained; 1 is the stem."""
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def choose_layers(network: Network, layers: str) -> None:
    """Let gradients reach the chosen layers only."""
    network.requires_grad_(True)
    for module in _frozen(network, layers):
        module.requires_grad_(False)


def set_modes(network: Network, stage: Stage) -> None:
    """Training mode, but for batch-norm that must keep its statistics."""
    network.train()
    for module in _frozen(network, stage.layers):
        module.eval()
    if stage.batch_norm == "frozen":
        for module in network.modules():
            if isinstance(module, _NORMS):
                module.eval()


def _frozen(network: Network, layers: str) -> list[nn.Module]:
    stages = network.stage_modules()
    return [module for stage in _FROZEN_STAGES[layers] for module in stages[stage]]


def optimizer_of(stage: Stage, network: nn.Module) -> torch.optim.Optimizer:
    """A fresh optimiser of the trained parameters; its weight decay is for kernels, not biases and norms."""
    trained = [p for p in network.parameters() if p.requires_grad]
    decay = stage.weight_decay if stage.decay == "decoupled" else 0.0
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if stage.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=stage.learning_rate, momentum=stage.momentum)
    return torch.optim.AdamW(groups, lr=stage.learning_rate)


def mean_square_penalty(network: nn.Module, weight: float) -> Tensor:
    """Weight × Σ over tensors of mean(w²), of what is trained but the scales and shifts of batch-norm.

    Matterport's regularisation of its weights, biases included.
    """
    norms = {id(p) for m in network.modules() if isinstance(m, _NORMS) for p in m.parameters()}
    parts = [p.square().mean() for p in network.parameters() if p.requires_grad and id(p) not in norms]
    return weight * torch.stack(parts).sum()
