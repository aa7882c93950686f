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
        self._before: Any = None

    def begin(self, image: Image) -> None:
        """Put the ruler into the person's hand."""
        self.leave()
        layout = layout_of_layer(image)
        self._before = self._viewer.layers.selection.active
        placed = placement(image, (layout.y, layout.x))
        layer = self._found()
        if layer is None:
            layer = Shapes(ndim=2, name=NAME, edge_color="yellow", face_color="transparent", **placed)
            layer.edge_width = 1
            self._viewer.add_layer(layer)
        else:
            for name, value in placed.items():
                setattr(layer, name, value)
        layer.mouse_drag_callbacks[:] = [self._until_released]
        layer.visible = True
        self._viewer.layers.selection.active = layer
        layer.mode = "add_line"

    def leave(self) -> None:
        """Take the ruler away: its layer stays, hidden, for napari may crash when one just drawn on goes."""
        if (layer := self._found()) is not None:
            layer.data = []
            layer.mode = "pan_zoom"
            layer.visible = False
        if self._before is not None and self._before in self._viewer.layers:
            self._viewer.layers.selection.active = self._before
        self._before = None

    def _found(self) -> Shapes | None:
        return next((x for x in self._viewer.layers if isinstance(x, Shapes) and x.name == NAME), None)

    def _until_released(self, layer: Shapes, event: Any) -> Generator[None, None, None]:
        yield
        while event.type == "mouse_move":
            yield
        QTimer.singleShot(0, self._finish)

    def _finish(self) -> None:
        """The line is drawn; a click without a drag leaves the ruler in the hand."""
        layer = self._found()
        if layer is None or not len(layer.data):
            return
        ends = np.asarray(layer.data[-1], float)[:, -2:]
        length = float(np.linalg.norm(ends[-1] - ends[0]))
        if length < SHORTEST:
            layer.data = []
            return
        self.leave()
        self._measured(length)
