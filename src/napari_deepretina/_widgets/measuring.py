"""Intensities of image layers for the nuclei of a result, and sizes of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_deepretina._widgets.own_labels import KEY, is_ours
from napari_deepretina._widgets.placing import layout_of_layer
from napari_deepretina.data.channel_names import COLOURS
from napari_deepretina.data.picture import MICROMETRES
from napari_deepretina.document.measure import Columns


def pixel_size_of(scale: Sequence[float], units: Sequence[Any] | None) -> tuple[float, float] | None:
    """Height and width of a layer's pixels in micrometres; None unless both axes have a unit of length."""
    factors = [MICROMETRES.get(str(u)) for u in (list(units or ("pixel",)) * 2)[-2:]]
    sizes = [abs(float(s)) * f for s, f in zip(scale[-2:], factors, strict=True) if f is not None]
    return (sizes[0], sizes[1]) if len(sizes) == 2 else None


def measurable(layers: Iterable[Any], labels: Labels) -> list[Image]:
    """Image layers whose intensities can be measured: that of the labels, and others of their shape."""
    return [x for x in layers if isinstance(x, Image) and channels_of(x, labels)]


def channels_of(image: Image, labels: Labels) -> dict[str, NDArray[Any]]:
    """Intensities of each channel of an image layer, in the labels' shape; none if it does not fit.

    Channels of the image that the labels were made from have the names that the command line gives them:
    intensity, red, channel_0 …; those of other layers begin with the layer's name. Nothing is read yet.
    """
    data = image.data[0] if image.multiscale else image.data
    mark = labels.metadata.get(KEY)
    index: list[Any] = [None] * data.ndim
    own = isinstance(mark, dict) and is_ours(labels, image) and len(mark.get("index", ())) == data.ndim
    if own:
        index = list(mark["index"])
    axis = layout_of_layer(image).either
    names, places = ["intensity" if own else image.name], [0]
    several = axis is not None and (
        image.rgb or index[axis] is not None or _without(data.shape, axis) == labels.data.shape
    )
    if several and axis is not None:
        places = list(range(min(data.shape[axis], 3) if image.rgb else data.shape[axis]))
        kinds = COLOURS if image.rgb else [f"channel_{k}" for k in places]
        names = [kind if own else f"{image.name} {kind}" for kind in kinds]
    found = {}
    for name, place in zip(names, places, strict=True):
        if several and axis is not None:
            index[axis] = place
        values = data[tuple(slice(None) if i is None else int(i) for i in index)]
        if values.shape == labels.data.shape:
            found[name] = values
    return found


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(n for k, n in enumerate(shape) if k != axis)


def aligned(measured: Columns, ids: NDArray[np.int64]) -> Columns:
    """Columns of measurements in the order of some ids; NaN for those that were not measured yet."""
    if not measured:
        return {}
    place = np.searchsorted(measured["index"], ids)
    known = place < len(measured["index"])
    known[known] = measured["index"][place[known]] == ids[known]
    columns: Columns = {}
    for name, values in measured.items():
        if name != "index":
            columns[name] = np.full(len(ids), np.nan)
            columns[name][known] = values[place[known]]
    return columns
