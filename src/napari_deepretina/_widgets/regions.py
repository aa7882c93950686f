"""Where Segment looks: the whole image, what is shown, or shapes that a person drew."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Image, Shapes
from numpy.typing import NDArray

from napari_deepretina._widgets.placing import full_data, layout_of_layer
from napari_deepretina._widgets.ruler import NAME as RULER
from napari_deepretina._widgets.tools_layer import CHOSEN, TOOLS
from napari_deepretina.data.regions import Region
from napari_deepretina.errors import UserError

WHOLE, SHOWN = "whole image", "what is shown now"
_CLOSED = ("polygon", "rectangle", "ellipse")
_ROUND = np.linspace(0, 2 * np.pi, 64, endpoint=False)


def region_choices(viewer: Any) -> list[tuple[str, str]]:
    """What a person may choose: (text, value); shapes layers by their unique id."""
    shapes = [x for x in viewer.layers if isinstance(x, Shapes) and x.name not in (TOOLS, CHOSEN, RULER)]
    return [(WHOLE, WHOLE), (SHOWN, SHOWN), *((f"shapes in {x.name!r}", str(x.unique_id)) for x in shapes)]


def regions_of_choice(viewer: Any, image: Image, choice: str) -> tuple[Region, ...] | None:
    """Regions on the rows and columns of an image layer; None for all of it.

    Raises
    ------
    UserError
        If the layer holds no closed shape, or nothing of the image is shown.
    """
    if choice in (None, WHOLE):
        return None
    if choice == SHOWN:
        return (_what_is_shown(image),)
    layer = next((x for x in viewer.layers if str(x.unique_id) == choice), None)
    if layer is None:
        raise UserError("the shapes layer of the region is not there any more: choose another region")
    found = []
    for k, (corners, kind) in enumerate(zip(layer.data, layer.shape_type, strict=True)):
        if kind not in _CLOSED or not _in_this_plane(viewer, layer, corners):
            continue
        outline = _ellipse(np.asarray(corners)) if kind == "ellipse" else np.asarray(corners)
        ring = tuple((float(x) + 0.5, float(y) + 0.5) for y, x in _on_image(viewer, image, layer, outline))
        found.append(Region(name=_name(layer, k) or f"{layer.name} {k + 1}", rings=(ring,)))
    if not found:
        raise UserError(
            f"{layer.name!r} holds no closed shape here: draw rectangles, ellipses or polygons around what "
            "is to be segmented"
        )
    return _joined(found)


def _joined(regions: list[Region]) -> tuple[Region, ...]:
    """Shapes of one name are one region, as they are when they come from one object with holes."""
    by_name: dict[str, tuple[Any, ...]] = {}
    for region in regions:
        by_name[region.name] = (*by_name.get(region.name, ()), *region.rings)
    return tuple(Region(name=name, rings=rings) for name, rings in by_name.items())


def _name(layer: Shapes, number: int) -> str:
    """What a shape is called in the layer's features."""
    for column in ("name", "region", "label"):
        if column in layer.features:
            value = layer.features[column].iloc[number]
            return "" if value is None or value != value else str(value).strip()
    return ""


def _in_this_plane(viewer: Any, layer: Shapes, corners: Any) -> bool:
    """Whether a shape lies in the plane that is shown, for a layer with more axes than two."""
    if layer.ndim == 2:
        return True
    here = np.asarray(layer.world_to_data(np.asarray(viewer.dims.point)[-layer.ndim :]))[:-2]
    return bool((np.abs(np.asarray(corners)[:, :-2] - here) < 0.5 + 1e-6).all())


def _ellipse(box: NDArray[Any]) -> NDArray[Any]:
    """Points on the ellipse inside a box of four corners."""
    middle = box.mean(axis=0)
    first, second = (box[1] - box[0]) / 2, (box[3] - box[0]) / 2
    return np.asarray(middle + np.outer(np.cos(_ROUND), first) + np.outer(np.sin(_ROUND), second))


def _on_image(viewer: Any, image: Image, layer: Shapes, points: NDArray[Any]) -> NDArray[Any]:
    """Points of a layer as (row, column) of an image layer, in its pixels."""
    layout = layout_of_layer(image)
    dims = max(image.ndim, layer.ndim)
    world = np.tile(np.asarray(viewer.dims.point, float)[-dims:], (len(points), 1))
    if world.shape[1] < dims:
        world = np.concatenate([np.zeros((len(points), dims - world.shape[1])), world], axis=1)
    for k, point in enumerate(points):
        world[k, -layer.ndim :] = layer.data_to_world(point)
    placed = np.array([image.world_to_data(row[-image.ndim :]) for row in world])
    return placed[:, [layout.y, layout.x]]


def _what_is_shown(image: Image) -> Region:
    """The part of an image that the canvas shows."""
    layout = layout_of_layer(image)
    low, high = np.asarray(image.corner_pixels, float)
    if image.multiscale:
        factors = np.asarray(image.downsample_factors[image.data_level])
        low, high = low * factors, (high + 1) * factors - 1
    (y0, y1), (x0, x1) = ((low[a], high[a] + 1) for a in (layout.y, layout.x))
    height, width = (full_data(image).shape[a] for a in (layout.y, layout.x))
    y0, x0, y1, x1 = max(0, y0), max(0, x0), min(height, y1), min(width, x1)
    if y1 - y0 < 8 or x1 - x0 < 8:
        raise UserError("nothing of the image is shown: zoom or move so that it is in view")
    ring = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    return Region(name="view", rings=(tuple((float(x), float(y)) for x, y in ring),))
