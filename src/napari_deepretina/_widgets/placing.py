"""Putting labels where their image is: scale, translate, rotate, shear, affine, units, axis names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def placement(layer: Any, axes: Sequence[int], start: Sequence[int] | None = None) -> dict[str, Any]:
    """Keyword arguments that lay a layer over some axes of another one.

    Parameters
    ----------
    layer : napari layer.
    axes : its axes that became those of the new layer, rising.
    start : position, along each, of the new layer's first pixel; by default 0.
    """
    pick, n = list(axes), len(axes)
    block = np.ix_(pick, pick)
    affine = np.asarray(layer.affine.affine_matrix)
    small = np.eye(n + 1)
    small[:n, :n], small[:n, n] = affine[:-1, :-1][block], affine[:-1, -1][pick]
    scale, rotate = np.asarray(layer.scale)[pick], np.asarray(layer.rotate)[block]
    moved = rotate @ (scale * np.asarray([0] * n if start is None else start))
    return {
        "scale": scale,
        "translate": np.asarray(layer.translate)[pick] + moved,
        "rotate": rotate,
        "shear": [_shear_between(layer, a, b) for k, a in enumerate(pick) for b in pick[k + 1 :]],
        "affine": small,
        "units": [layer.units[a] for a in pick],
        "axis_labels": [layer.axis_labels[a] for a in pick],
    }


def bright_colours(count: int = 60) -> Any:
    """Label colours that are bright each: some of napari's own can hardly be seen on a dark image."""
    from napari.utils.colormaps import CyclicLabelColormap

    hues = (np.arange(count + 1) * 0.618034) % 1.0
    wheel = np.abs((hues[:, None] * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    colours = np.ones((count + 1, 4), np.float32)
    colours[:, :3] = 0.3 + 0.7 * np.clip(wheel, 0, 1)
    return CyclicLabelColormap(colors=colours, background_value=0, name="bright nuclei")


def camera_of(viewer: Any) -> Any:
    """The camera: napari 0.9 moved it to the scene, and warns of its old place."""
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


def _shear_between(layer: Any, first: int, second: int) -> float:
    """Napari keeps shear as the upper triangle, row by row."""
    rows, columns = np.triu_indices(layer.ndim, k=1)
    where = np.flatnonzero((rows == first) & (columns == second))
    return float(np.ravel(layer.shear)[where[0]])
