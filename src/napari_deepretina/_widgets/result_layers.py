"""Labels layers that hold results: found again, updated, never replaced silently."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import napari.viewer
import numpy as np
from napari.layers import Image, Labels
from qtpy.QtWidgets import QMessageBox, QWidget

from napari_deepretina._widgets.own_labels import Remembered, is_edited, is_ours, remember, sign
from napari_deepretina._widgets.placing import bright_colours, placement
from napari_deepretina._widgets.so_far import SoFar
from napari_deepretina.inference.planes import Plane, Stack
from napari_deepretina.inference.steps import Patch
from napari_deepretina.postprocess import PostprocessSettings

Answer = Literal["replace", "new", "cancel"]


@dataclass
class Run:
    """What must be known when a run ends, whatever happened to the viewer meanwhile.

    Attributes
    ----------
    image_name, image_layer : what is segmented.
    placed : keyword arguments that lay the result over it.
    single : axes of one plane that the result's array needs to lie right.
    asked : more for the layer's metadata, see `asked_of`.
    target : labels layer to be updated, if there is one.
    replace_edited : whether a person allowed that.
    preview : what shows the result while it grows.
    """

    image_name: str
    image_layer: Image
    placed: dict[str, Any]
    single: tuple[int, ...]
    asked: dict[str, Any]
    target: Labels | None = None
    replace_edited: bool = False
    preview: SoFar | None = field(default=None, init=False)

    def laid(self, labels: Any) -> Any:
        """Labels with the axes that their layer has."""
        return np.expand_dims(labels, self.single) if self.single else labels

    def show_patch(self, viewer: napari.viewer.Viewer, patch: Patch) -> None:
        """What came to the result, in a layer only to look at; it goes when the run is over."""
        shape, start = list(patch.shape), list(patch.start)
        for axis in self.single:
            shape.insert(axis, 1)
            start.insert(axis, 0)
        if self.preview is None:
            self.preview = SoFar(viewer, tuple(shape), f"{self.image_name} so far", self.placed)
        self.preview.show(Patch(tuple(shape), tuple(start), self.laid(patch.labels)))

    def over(self) -> None:
        """Take the preview away."""
        if self.preview is not None:
            self.preview.remove()


def run_of(layer: Image, taken: Plane | Stack, asked: dict[str, Any]) -> Run:
    """A run on one plane or on several of an image layer."""
    if isinstance(taken, Plane):
        return Run(layer.name, layer, placement(layer, taken.axes), (), asked)
    along, _, x = taken.axes
    axes = [i for i in range(along, x + 1) if i in taken.axes or taken.index[i] is not None]
    start = [0 if i in taken.axes else int(taken.index[i] or 0) for i in axes]
    single = tuple(k for k, i in enumerate(axes) if i not in taken.axes)
    return Run(layer.name, layer, placement(layer, axes, start), single, asked)


def asked_of(layer: Image, taken: Plane | Stack, channel: int | None, planes: str) -> dict[str, Any]:
    """What `segment --replay` needs beside the settings."""
    numbers = [i for i in taken.index if i is not None]
    if isinstance(taken, Plane):
        planes = str(numbers[0]) if len(numbers) == 1 and channel is None else planes
    path = layer.source.path
    return {
        "inputs": [str(path)] if path else [],
        "index": list(taken.index),
        "settings": {"channel": channel, "planes": planes},
    }


def own_layer(viewer: napari.viewer.Viewer, image: Image, *, stack: bool) -> Labels | None:
    """The newest layer that we made from this image, of one plane or of several."""
    ours = [
        layer
        for layer in viewer.layers
        if isinstance(layer, Labels) and is_ours(layer, image) and (layer.ndim > 2) == stack
    ]
    return ours[-1] if ours else None


def show(viewer: napari.viewer.Viewer, result: Any, run: Run) -> Labels:
    """Put a result into the run's layer, or into a new one if that has gone or was edited."""
    labels = run.laid(result.labels)
    told = result.provenance()
    details = told | run.asked | {"settings": told.get("settings", {}) | run.asked["settings"]}
    features = {k: np.concatenate([_nothing(v), v]) for k, v in result.features().items()}
    kept: Remembered | None = None
    if hasattr(result, "prediction"):
        chosen = {k: getattr(result.settings, k) for k in PostprocessSettings.model_fields}
        kept = Remembered(
            result.prediction.raw, labels.copy(), result.instances.sources, PostprocessSettings(**chosen)
        )
        labels = labels.copy()
    target = run.target
    usable = (
        target is not None
        and target in viewer.layers
        and target.data.shape == labels.shape
        and (run.replace_edited or not is_edited(target))
    )
    if target is not None and usable:
        target.data = labels
        target.features = features
        _mark(target, run, details, kept)
        return target
    layer = Labels(
        labels,
        name=f"{run.image_name} nuclei",
        features=features,
        colormap=bright_colours(),
        opacity=1.0,
        **run.placed,
    )
    layer.contour = 2
    _mark(layer, run, details, kept)
    viewer.add_layer(layer)
    return layer


def _mark(layer: Labels, run: Run, details: dict[str, Any], kept: Remembered | None) -> None:
    sign(layer, run.image_layer, details)
    if kept is not None:
        remember(layer, kept)


def ask_about_edits(parent: QWidget, name: str) -> Answer:
    """A person edited the layer that would be updated."""
    box = QMessageBox(parent)
    box.setObjectName("edited_labels")
    box.setWindowTitle("Edited labels")
    box.setText(f"{name!r} was edited by hand since it was segmented.")
    box.setInformativeText("Keep it and put the new result beside it?")
    keep = box.addButton("Keep, add a new layer", QMessageBox.AcceptRole)
    replace = box.addButton("Replace my edits", QMessageBox.DestructiveRole)
    box.addButton(QMessageBox.Cancel)
    box.setDefaultButton(keep)
    box.exec()
    if box.clickedButton() is keep:
        return "new"
    return "replace" if box.clickedButton() is replace else "cancel"


def _nothing(column: np.ndarray) -> np.ndarray:
    """One row for the background, which napari's table expects at label 0."""
    empty: Any = "" if column.dtype == object else np.nan if column.dtype.kind == "f" else 0
    return np.array([empty], dtype=column.dtype)
