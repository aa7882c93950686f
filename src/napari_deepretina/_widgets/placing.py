"""Putting labels where their image is: scale, translate, rotate, shear, affine, units, axis names."""

from __future__ import annotations

from typing import Any

import numpy as np


def placement(layer: Any, axes: tuple[int, int]) -> dict[str, Any]:
    """Keyword arguments that lay a 2D layer over two axes of another one.

    Parameters
    ----------
    layer : napari layer.
    axes : its axes that became (y, x).
    """
    pick = list(axes)
    block = np.ix_(pick, pick)
    affine = np.asarray(layer.affine.affine_matrix)
    shift = affine[:-1, -1][pick]
    small = np.eye(3)
    small[:2, :2], small[:2, 2] = affine[:-1, :-1][block], shift
    return {
        "scale": np.asarray(layer.scale)[pick],
        "translate": np.asarray(layer.translate)[pick],
        "rotate": np.asarray(layer.rotate)[block],
        "shear": [_shear_between(layer, *axes)],
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
