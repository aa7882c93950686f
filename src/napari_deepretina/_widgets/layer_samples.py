"""Training samples from layers: the 2D image and labels that belong together, and what was edited."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_deepretina._widgets.own_labels import KEY, RAW
from napari_deepretina.errors import UserError


def plane_of_labels(labels: Labels, step: tuple[int, ...]) -> NDArray[Any]:
    """The (H, W) labels, or the plane of them that is shown."""
    truth = np.asarray(labels.data)
    return truth if truth.ndim == 2 else truth[tuple(step[-truth.ndim : -2])]


def plane_of_image(image: Image, labels: Labels, step: tuple[int, ...]) -> NDArray[Any]:
    """The 2D image that the labels belong to: the plane they were made from, or the one that is shown."""
    data = image.data[0] if image.multiscale else image.data
    mark = labels.metadata.get(KEY)
    if isinstance(mark, dict) and mark.get("image") == image.name and "index" in mark:
        return np.asarray(data[tuple(slice(None) if i is None else int(i) for i in mark["index"])])
    extra = data.ndim - 2 - bool(image.rgb)
    shown = step[-(extra + 2) :][:extra] if extra else ()
    return np.asarray(data[tuple(int(i) for i in shown)])


def edited_pixels(labels: Labels) -> NDArray[np.bool_]:
    """(H, W), True where pixels differ from what the network drew.

    Raises
    ------
    UserError
        If nobody knows what the network drew.
    """
    remembered = labels.metadata.get(RAW)
    if remembered is None:
        raise UserError("only labels that Segment made can tell what was edited: keep the whole frame")
    session = remembered.session
    data = np.asarray(labels.data)
    if session is None:
        return np.asarray(data != remembered.labels)
    session.look(data)
    return np.isin(data, list(session.touched | session.accepted))
