"""Labels layers that hold results: found again, updated, never replaced silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import napari.viewer
import numpy as np
from napari.layers import Image, Labels
from qtpy.QtWidgets import QMessageBox, QWidget

from napari_deepretina._widgets.document_view import DocumentView, view_of
from napari_deepretina._widgets.hub import hub
from napari_deepretina._widgets.own_labels import KEY, RAW, is_edited, is_ours, sign
from napari_deepretina._widgets.placing import bright_colours, placement
from napari_deepretina._widgets.so_far import SoFar
from napari_deepretina.document import Document, of_result
from napari_deepretina.document.changes import Index
from napari_deepretina.document.making import with_planes
from napari_deepretina.inference.asked import regions_of
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

    def place(self, index: Sequence[int]) -> Index:
        """A plane's place on the axes of the layer."""
        place = list(index)
        for axis in self.single:
            place.insert(axis, 0)
        return tuple(place)

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


def own_layer(
    viewer: napari.viewer.Viewer, image: Image, *, stack: bool, index: Sequence[int | None] | None = None
) -> Labels | None:
    """The newest layer that we made from this image, of one plane or of several.

    Parameters
    ----------
    index : of the plane that is meant, where it is one: a result of another plane is another result.
    """
    ours = [
        layer
        for layer in viewer.layers
        if isinstance(layer, Labels)
        and is_ours(layer, image)
        and (layer.ndim > 2) == stack
        and (stack or index is None or list(layer.metadata[KEY].get("index", ())) == list(index))
    ]
    return ours[-1] if ours else None


def show(viewer: napari.viewer.Viewer, result: Any, run: Run) -> Labels:
    """Put a result into the run's layer, or into a new one if that has gone or was edited."""
    labels = run.laid(result.labels)
    told = result.provenance()
    details = told | run.asked | {"settings": told.get("settings", {}) | run.asked["settings"]}
    document, done = document_of(result, run)
    if not isinstance(labels, np.memmap):  # those of large stacks are nobody else's
        labels = np.array(labels)
    target = run.target
    usable = (
        target is not None
        and target in viewer.layers
        and target.data.shape == labels.shape
        and (run.replace_edited or not is_edited(target))
    )
    if target is not None and usable:
        if (view := view_of(target)) is not None:
            some = len(done) < int(np.prod(labels.shape[:-2], dtype=int))
            view.replace(with_planes(view.document, document, done) if some else document)
        else:
            target.data = labels
        _mark(target, run, details, document)
        return target
    layer = Labels(
        labels, name=f"{run.image_name} nuclei", colormap=bright_colours(), opacity=1.0, **run.placed
    )
    layer.contour = 2
    _mark(layer, run, details, document)
    viewer.add_layer(layer)
    return layer


def document_of(result: Any, run: Run) -> tuple[Document, list[Index]]:
    """The document of what a run found, in an image or in a stack, and the planes that it did."""
    chosen = PostprocessSettings(**{k: getattr(result.settings, k) for k in PostprocessSettings.model_fields})
    if hasattr(result, "prediction"):
        made: dict[Any, Any] = {(): (result.prediction.raw, result.instances, result.instances.ids)}
    else:
        kept = {i: p.prediction.raw if p.tunable else None for i, p in result.planes.items()}
        made = {i: (kept[i], p.instances, result.ids[i]) for i, p in result.planes.items()}
        made = {run.place(i): parts for i, parts in made.items()}
    classes = result.weights.get("classes", "nucleus").split("\n")
    labels = run.laid(result.labels)
    regions = regions_of(result.settings)
    document = of_result(labels, made, chosen, classes, link=result.settings.link, regions=regions)
    return document, list(made)


def _mark(layer: Labels, run: Run, details: dict[str, Any], document: Document) -> None:
    sign(layer, run.image_layer, details)
    view = view_of(layer)
    if view is None:
        view = layer.metadata[RAW] = DocumentView(layer, document, document.settings)
    view.images = [run.image_layer]
    view.show_features()
    hub.shown.emit(layer)


def ask_about_edits(parent: QWidget, layer: Labels) -> Answer:
    """A person worked on the layer that would be updated: what is to become of that."""
    box = QMessageBox(parent)
    box.setObjectName("edited_labels")
    box.setWindowTitle("Edited labels")
    box.setText(f"You worked on {layer.name!r} since it was segmented: {work_on(layer)}.")
    box.setInformativeText("Keep it and put the new result beside it? Undo brings replaced work back, too.")
    keep = box.addButton("Keep, add a new layer", QMessageBox.AcceptRole)
    replace = box.addButton("Replace my edits", QMessageBox.DestructiveRole)
    box.addButton(QMessageBox.Cancel)
    box.setDefaultButton(keep)
    box.exec()
    if box.clickedButton() is keep:
        return "new"
    return "replace" if box.clickedButton() is replace else "cancel"


def work_on(layer: Labels) -> str:
    """What a person did to a result, in words."""
    view = view_of(layer)
    if view is None:
        return "its pixels were changed"
    states = [nucleus.state for nucleus in view.document.nuclei.values()]
    counts = {state: states.count(state) for state in ("accepted", "edited", "drawn", "deleted")}
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "a second look inside a box"
