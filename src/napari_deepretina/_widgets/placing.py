"""Putting labels where their image is: scale, translate, rotate, shear, affine, units, axis names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_deepretina.errors import UserError
from napari_deepretina.inference.planes import Layout, layout_of


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


def step_of(viewer: Any, layer: Any) -> tuple[int, ...]:
    """The viewer's position, on the layer's own axes, in its pixels."""
    world = np.asarray(viewer.dims.point)[-layer.ndim :]
    return tuple(round(v) for v in np.asarray(layer.world_to_data(world)))


def look_at(viewer: Any, layer: Any, centre: Any, around: float, side: int) -> None:
    """Show a place of a layer from near.

    Parameters
    ----------
    centre : position on the layer's own axes, in its pixels.
    around : pixels of the layer that the shorter side of the canvas shows.
    side : length of that side on the screen.
    """
    world = layer.data_to_world(centre)
    first = viewer.dims.ndim - layer.ndim
    for axis, value in enumerate(world[:-2]):
        viewer.dims.set_point(first + axis, value)
    camera = camera_of(viewer)
    camera.center = tuple(world[-2:])
    pixel = float(np.mean(np.abs(np.asarray(layer.scale)[-2:])))
    camera.zoom = side / max(around * pixel, 1e-9)


def full_data(layer: Any) -> Any:
    """An image layer's data, the finest level of several."""
    return layer.data[0] if layer.multiscale else layer.data


AXES = "napari-deepretina-axes"
"""In an image layer's metadata: what a person said that its short axis holds."""


def layout_of_layer(layer: Any) -> Layout:
    """What the axes of an image layer are, as it says, and as a person said before.

    Raises
    ------
    UserError
        If it has fewer than two.
    """
    found = layout_of(full_data(layer).shape, rgb=layer.rgb, names=layer.axis_labels)
    return found.told(layer.metadata.get(AXES, ""))


def columns_are_channels(layout: Layout) -> bool:
    """Whether channels lie last, which napari shows as columns."""
    return layout.channels is not None and layout.channels > layout.x and not layout.rgb


def split_channels(viewer: Any, layer: Any) -> None:
    """Lay the channels of an image whose last axis holds them out as layers; the image itself is hidden."""
    layout = layout_of_layer(layer)
    axis = layout.channels
    if axis is None:
        return
    kept = [i for i in range(len(layout.shape)) if i != axis]
    choices = [(text, k) for text, k in layout.channel_choices() if k is not None]
    for text, number in choices:
        values = full_data(layer)[
            tuple(number if i == axis else slice(None) for i in range(len(layout.shape)))
        ]
        viewer.add_image(values, name=f"{layer.name} {text}", blending="additive", **placement(layer, kept))
    layer.visible = False


def check_shown(viewer: Any, layer: Any) -> None:
    """UserError if the viewer shows anything else than rows and columns of an image layer's planes."""
    if columns_are_channels(layout_of_layer(layer)):
        return
    if viewer.dims.ndisplay == 3:
        if layer.ndim > 2:
            raise UserError("in 3D no single plane is shown: switch to 2D, or choose planes: all")
        return
    first = viewer.dims.ndim - layer.ndim
    shown = [a - first for a in viewer.dims.displayed]
    if sorted(shown) != [layer.ndim - 2, layer.ndim - 1]:
        raise UserError(
            "the viewer shows another pair of axes than the image's last two, in whose planes nuclei are "
            "looked for: roll the dimensions back (the roll button below the layer list)"
        )


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


def centre_on(viewer: Any, y: float, x: float) -> None:
    """Bring a place, in world coordinates, to the middle of the canvas, and near."""
    camera = camera_of(viewer)
    camera.center = (0, float(y), float(x))
    camera.zoom = max(camera.zoom, 4)


def _shear_between(layer: Any, first: int, second: int) -> float:
    """Napari keeps shear as the upper triangle, row by row."""
    rows, columns = np.triu_indices(layer.ndim, k=1)
    where = np.flatnonzero((rows == first) & (columns == second))
    return float(np.ravel(layer.shear)[where[0]])
