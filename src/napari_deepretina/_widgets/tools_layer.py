"""The layer on which lines and boxes are drawn over labels, and the outline of the nucleus in hand."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Literal

import numpy as np
from napari.layers import Labels, Shapes
from numpy.typing import NDArray
from qtpy.QtCore import QTimer
from skimage.measure import find_contours

from napari_deepretina._widgets.placing import placement
from napari_deepretina.errors import UserError
from napari_deepretina.instances.editing import Line

TOOLS = "Deep Retina tools"
CHOSEN = "chosen nucleus"
Shape = Literal["line", "rectangle"]
Box = tuple[int, int, int, int]


class ToolsLayer:
    """Lines and boxes over a labels layer; made when first needed.

    Parameters
    ----------
    drawn : called when a shape is finished, the mouse being released.
    """

    def __init__(self, viewer: Any, drawn: Callable[[], None]) -> None:
        self._viewer, self._drawn = viewer, drawn

    def begin(self, over: Labels, shape: Shape) -> None:
        """Let a person draw over the labels."""
        tools = self.layer(over)
        tools.data = []
        self._viewer.layers.selection.active = tools
        tools.mode = f"add_{shape}"

    def leave(self, over: Labels) -> None:
        """Put the tool down: what was drawn goes, and the labels are in hand again."""
        if (tools := self._found()) is not None:
            tools.data = []
            tools.mode = "pan_zoom"
        if over in self._viewer.layers:
            self._viewer.layers.selection.active = over

    def line(self, over: Labels) -> Line:
        """The line drawn last, on the labels' rows and columns; UserError if there is none."""
        lines = self._shapes(over, "line")
        if not lines:
            raise UserError("draw a line first: press 'merge' or 'split' and drag across the nuclei")
        return lines[-1]

    def box(self, over: Labels) -> Box:
        """(x0, y0, x1, y1) of the box drawn last, inside the labels; UserError if none or too small."""
        boxes = self._shapes(over, "rectangle")
        if not boxes:
            raise UserError("draw a box first: press 'look again' and drag around the nuclei")
        shape = over.data.shape[-2:]
        low = np.clip(np.floor(boxes[-1].min(axis=0)), 0, shape).astype(int)
        high = np.clip(np.ceil(boxes[-1].max(axis=0)) + 1, 0, shape).astype(int)
        if (high - low < 8).any():
            raise UserError("the box is too small: draw one of at least 8 pixels a side")
        return int(low[1]), int(low[0]), int(high[1]), int(high[0])

    def layer(self, over: Labels) -> Shapes:
        """The layer, laid exactly over the labels' last two axes."""
        axes = (over.ndim - 2, over.ndim - 1)
        found = self._found()
        if found is not None:
            if found.metadata.get(TOOLS) != str(over.unique_id):  # it lay over other labels
                found.data = []
                for name, value in placement(over, axes).items():
                    setattr(found, name, value)
                found.metadata = {TOOLS: str(over.unique_id)}
            return found
        tools = Shapes(
            ndim=2, name=TOOLS, edge_color="yellow", face_color="transparent", **placement(over, axes)
        )
        tools.edge_width = 1
        tools.metadata = {TOOLS: str(over.unique_id)}
        tools.mouse_drag_callbacks.append(self._until_released)
        self._viewer.add_layer(tools)
        return tools

    def _found(self) -> Shapes | None:
        layers = [x for x in self._viewer.layers if isinstance(x, Shapes) and x.name == TOOLS]
        return layers[0] if layers else None

    def _shapes(self, over: Labels, kind: Shape) -> list[Line]:
        tools = self.layer(over)
        drawn = zip(tools.data, tools.shape_type, strict=True)
        return [np.asarray(s, float)[:, -2:] for s, is_a in drawn if is_a == kind]

    def _until_released(self, layer: Shapes, event: Any) -> Generator[None, None, None]:
        """Napari finishes the shape when the mouse is released; what is to be done with it comes after."""
        moved = False
        yield
        while event.type == "mouse_move":
            moved = True
            yield
        if moved and str(layer.mode).startswith("add_"):
            QTimer.singleShot(0, self._drawn)


class ChosenOutline:
    """A bright outline around one nucleus, in a layer that is hidden while none is chosen."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._layer: Shapes | None = None
        self._over = ""

    def show(self, over: Labels | None, label: int) -> None:
        """Outline a nucleus of a labels layer; 0 hides the outline."""
        paths = outlines(np.asarray(over.data), label) if over is not None and label else []
        if not paths or over is None:
            self.hide()
            return
        if self._layer is None or self._layer not in self._viewer.layers or self._over != str(over.unique_id):
            self.remove()
            self._layer = self._added(over)
            self._over = str(over.unique_id)
        self._layer.data = []
        self._layer.add_paths(paths, edge_width=2, edge_color="white")
        self._layer.visible = True

    def hide(self) -> None:
        """Show no outline."""
        if self._layer is not None:
            self._layer.visible = False

    def remove(self) -> None:
        """Take the layer away."""
        if self._layer is not None and self._layer in self._viewer.layers:
            self._viewer.layers.remove(self._layer)
        self._layer = None

    def _added(self, over: Labels) -> Shapes:
        layer = Shapes(
            ndim=over.ndim, name=CHOSEN, edge_color="white", face_color="transparent",
            **placement(over, range(over.ndim)),
        )  # fmt: skip
        active = self._viewer.layers.selection.active
        self._viewer.add_layer(layer)
        self._viewer.layers.selection.active = active
        return layer


def outlines(labels: NDArray[np.integer], label: int) -> list[NDArray[np.float64]]:
    """Closed paths around a nucleus, in each plane where it lies; (N, ndim) coordinates."""
    paths = []
    for index in np.ndindex(labels.shape[:-2]):
        rows, columns = np.nonzero(labels[index] == label)
        if not len(rows):
            continue
        corner = np.array([rows.min() - 1, columns.min() - 1])
        mask = np.zeros((np.ptp(rows) + 3, np.ptp(columns) + 3))
        mask[rows - corner[0], columns - corner[1]] = 1
        for contour in find_contours(mask, 0.5):
            along = np.broadcast_to(np.array(index, float), (len(contour), len(index)))
            paths.append(np.concatenate([along, contour + corner], axis=1))
    return paths
