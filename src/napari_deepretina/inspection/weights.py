"""What is in a weights file, layer by layer, and what two files differ in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.errors import UserError
from napari_deepretina.model.weights import LoadedModel

BINS = 40
FAR = 6.0
"""Weights more than this many standard deviations from the mean of their layer are outliers."""
DEAD = 1e-3
"""A filter whose largest weight is below this share of its layer's is dead."""


@dataclass(frozen=True)
class LayerWeights:
    """One tensor of a network.

    Attributes
    ----------
    name, shape : of the tensor.
    mean, std, low, high : of its values.
    counts, edges : histogram, (BINS,) and (BINS + 1,).
    outliers : how many values lie far from the mean (`FAR`).
    dead : filters (places on the first axis) without weights to speak of (`DEAD`).
    """

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float
    low: float
    high: float
    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    outliers: int
    dead: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = {k: getattr(self, k) for k in ("name", "mean", "std", "low", "high", "outliers")}
        return values | {
            "shape": list(self.shape), "dead": list(self.dead), "counts": self.counts.tolist(),
            "edges": self.edges.tolist(),
        }  # fmt: skip


def layers_of(model: LoadedModel) -> list[LayerWeights]:
    """All tensors that are learnt, in the network's order."""
    return [_layer(name, p.detach().float().cpu().numpy()) for name, p in model.network.named_parameters()]


def _layer(name: str, values: NDArray[np.float32]) -> LayerWeights:
    flat = values.ravel().astype(np.float64)
    mean, std = float(flat.mean()), float(flat.std())
    counts, edges = np.histogram(flat, BINS)
    dead: tuple[int, ...] = ()
    if values.ndim > 1:
        largest = np.abs(values.reshape(len(values), -1)).max(axis=1)
        dead = tuple(np.flatnonzero(largest <= DEAD * max(float(largest.max()), 1e-30)).tolist())
    far = int(np.count_nonzero(np.abs(flat - mean) > FAR * std)) if std else 0
    return LayerWeights(
        name, tuple(values.shape), mean, std, float(flat.min()), float(flat.max()), counts, edges, far, dead
    )


def changes(first: LoadedModel, second: LoadedModel) -> dict[str, dict[str, float]]:
    """Mean and largest absolute change of each layer, and the mean in units of the first's deviation.

    Raises
    ------
    UserError
        If the networks have no tensor in common.
    """
    others = dict(second.network.named_parameters())
    told = {}
    for name, parameter in first.network.named_parameters():
        other = others.get(name)
        if other is None or other.shape != parameter.shape:
            continue
        before, after = (p.detach().float().cpu().numpy().astype(np.float64) for p in (parameter, other))
        change = np.abs(after - before)
        told[name] = {
            "mean": float(change.mean()),
            "largest": float(change.max()),
            "relative": float(change.mean() / max(float(before.std()), 1e-12)),
        }
    if not told:
        raise UserError(f"{first.info.name} and {second.info.name} have no layer of the same name and shape")
    return told
