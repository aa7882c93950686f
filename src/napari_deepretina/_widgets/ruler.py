"""A line drawn over one nucleus measures its diameter."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from napari.layers import Image, Shapes
from qtpy.QtCore import QTimer

from napari_deepretina._widgets.placing import layout_of_layer, placement

NAME = "Deep Retina ruler"
SHORTEST = 3.0
"""Pixels; a shorter line was a slip of the hand."""


class Ruler:
    """Lets a person drag a line over an image.

    Parameters
    ----------
    measured : called with its length in pixels of the image when the mouse is released.
    """

    def __init__(self, viewer: Any, measured: Callable[[float], None]) -> None:
        self._viewer, self._measured = viewer, measured
        self._layer: Shapes | None = None
        self._before: Any = None

    def begin(self, image: Image) -> None:
        """Put the ruler into the person's hand."""
        self.leave()
        layout = layout_of_layer(image)
        self._before = self._viewer.layers.selection.active
        layer = Shapes(
            ndim=2, name=NAME, edge_color="yellow", face_color="transparent",
            **placement(image, (layout.y, layout.x)),
        )  # fmt: skip
        layer.edge_width = 1
        layer.mouse_drag_callbacks.append(self._until_released)
        self._viewer.add_layer(layer)
        layer.mode = "add_line"
        self._layer = layer

    def leave(self) -> None:
        """Take the ruler away."""
        layer, self._layer = self._layer, None
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)
        if self._before is not None and self._before in self._viewer.layers:
            self._viewer.layers.selection.active = self._before
        self._before = None

    def _until_released(self, layer: Shapes, event: Any) -> Generator[None, None, None]:
        yield
        while event.type == "mouse_move":
            yield
        QTimer.singleShot(0, self._finish)

    def _finish(self) -> None:
        """The line is drawn; a click without a drag leaves the ruler in the hand."""
        if self._layer is None or not len(self._layer.data):
            return
        ends = np.asarray(self._layer.data[-1], float)[:, -2:]
        length = float(np.linalg.norm(ends[-1] - ends[0]))
        if length < SHORTEST:
            self._layer.data = []
            return
        self.leave()
        self._measured(length)
