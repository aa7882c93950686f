"""The steps of a detection as napari layers over the image, each made when it is first looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import napari.viewer
import numpy as np
from napari.layers import Image, Labels, Layer, Shapes
from numpy.typing import NDArray

from napari_deepretina._widgets.placing import bright_colours
from napari_deepretina.inspection import STEPS

if TYPE_CHECKING:
    from napari_deepretina.inspection.steps import Inspection

LEVEL_COLOURS = {2: "#4cc9f0", 3: "#80ed99", 4: "#ffd166", 5: "#f78c6b", 6: "#ef476f"}
PREFIX = "inspect: "
MOST_BOXES = 250


class StepLayers:
    """One layer a step, named after it; only the step that is looked at is visible."""

    def __init__(self, viewer: napari.viewer.Viewer, inspection: Inspection, placed: dict[str, Any]) -> None:
        self._viewer, self.inspection, self._placed = viewer, inspection, placed
        self.layers: dict[str, Layer] = {}

    def show(self, step: str) -> Layer:
        """Make this step's layer visible and hide the others; its layer."""
        layer = self.layers.get(step)
        if layer is None or layer not in self._viewer.layers:
            active = self._viewer.layers.selection.active
            layer = self._viewer.add_layer(self._made(step))
            self.layers[step] = layer
            self._viewer.layers.selection.active = active
        for name, other in self.layers.items():
            other.visible = name == step
        return layer

    def remove(self) -> None:
        """Take all of them away."""
        for layer in self.layers.values():
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self.layers = {}

    def add_activation(self, name: str) -> Image:
        """A feature map as a stack of its channels."""
        maps, scale, translate = self.inspection.activation(name)
        fitted = self._fitted(scale, translate)
        layer = Image(maps, name=f"{PREFIX}{name}", colormap="viridis", opacity=0.7, **fitted)
        self._viewer.add_layer(layer)
        return layer

    def _fitted(self, scale: tuple[float, float], translate: tuple[float, float]) -> dict[str, Any]:
        """Placement of a stack of maps over the image: theirs first, then the image's own."""
        own, shift = np.asarray(self._placed["scale"]), np.asarray(self._placed["translate"])
        return {
            "scale": [1, *(own * scale)],
            "translate": [0, *(shift + own * translate)],
        }

    def _made(self, step: str) -> Layer:
        name = PREFIX + step
        if step in STEPS[:6]:
            columns = self.inspection.boxes(step, MOST_BOXES)
            features = {k: v for k, v in columns.items() if k != "box"}
            return Shapes(
                corners_of(columns["box"]),
                shape_type="rectangle",
                name=name,
                features=features,
                edge_color=[LEVEL_COLOURS[level] for level in columns["level"].tolist()],
                face_color="transparent",
                edge_width=0.8,
                opacity=1,
                **self._placed,
            )
        if step == STEPS[6]:
            soft = self.inspection.soft_masks()
            return Image(
                soft, name=name, colormap="magma", contrast_limits=(0, 1), blending="additive", **self._placed
            )
        labels = self.inspection.pasted() if step == STEPS[7] else self.inspection.labels.copy()
        layer = Labels(labels, name=name, colormap=bright_colours(), **self._placed)
        if step == STEPS[8]:
            scores = self.inspection.instances.scores
            layer.features = {
                "label": np.arange(len(scores) + 1),
                "score": np.concatenate([[np.nan], scores]),
                "detection": np.concatenate([[-1], self.inspection.instances.sources]),
            }
        return layer


def corners_of(boxes: NDArray[Any]) -> NDArray[np.float64]:
    """(N, 4, 2) corners (y, x) of xyxy boxes, where a pixel's centre has its index."""
    x0, y0, x1, y1 = (np.asarray(boxes, float) - 0.5).T
    return np.stack([np.stack(c, axis=-1) for c in ((y0, x0), (y0, x1), (y1, x1), (y1, x0))], axis=1)
