"""Training samples from layers: the 2D image and labels that belong together, and what was edited."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from napari.qt.threading import create_worker
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from napari_deepretina._widgets.document_view import view_of
from napari_deepretina._widgets.own_labels import KEY, digest
from napari_deepretina._widgets.placing import layout_of_layer
from napari_deepretina.data.project import Project
from napari_deepretina.document.document import REVIEWED
from napari_deepretina.errors import UserError
from napari_deepretina.files import protected
from napari_deepretina.inference.planes import take_plane

AUTOSAVE_MS = 2000
"""How long after the last stroke a kept sample is written again."""


Steps = tuple[tuple[int, ...], tuple[int, ...]]
"""The position that is shown, on the axes of an image and on those of its labels, in their pixels."""


@dataclass
class Kept:
    """A sample in the project, and the layers that it is taken from."""

    name: str
    image: Image
    labels: Labels
    edited_only: bool
    steps: Steps
    digest: str


class SampleKeeper(QObject):
    """Keeps layers as samples of a project, and keeps the samples as the layers are edited.

    What is written again is written off the GUI thread. ``failed`` tells a reason.
    """

    failed = Signal(str)
    saved = Signal(str)

    def __init__(self, parent: QObject, project: Project) -> None:
        super().__init__(parent)
        self.project = project
        self._kept: dict[tuple[Image, Labels, tuple[int, ...], bool], Kept] = {}
        self._worker: Any = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(AUTOSAVE_MS)
        self._timer.timeout.connect(self.save)

    def keep(self, image: Image, labels: Labels, steps: Steps, *, edited_only: bool) -> str:
        """Write one sample now, in the place of its earlier state; its name."""
        key = (image, labels, _place(labels, steps[1]), edited_only)
        before = self._kept.get(key)
        content = _content(image, labels, steps, edited_only=edited_only)
        with protected(image.source.path):
            name = self.project.add(image.name, **content, replace=before.name if before else None)
        self._kept[key] = Kept(name, image, labels, edited_only, steps, digest(labels.data))
        if before is None:
            for event in (labels.events.data, labels.events.paint, labels.events.labels_update):
                event.connect(self._edited)
        return name

    def forget(self, name: str) -> Path:
        """Take a sample out of the project, and follow its layers no more; where its files are put."""
        self._kept = {key: kept for key, kept in self._kept.items() if kept.name != name}
        return self.project.put_aside(name)

    def _edited(self, event: Any = None) -> None:
        self._timer.start()

    def save(self) -> None:
        """Write what changed since it was kept."""
        if self._worker is not None:  # one after the other, in order
            self._timer.start()
            return
        for key, kept in list(self._kept.items()):
            now = digest(kept.labels.data)
            if now == kept.digest:
                continue
            kept.digest = now
            try:
                content = _content(kept.image, kept.labels, kept.steps, edited_only=kept.edited_only)
            except UserError as error:
                self.failed.emit(str(error))
                continue
            content["labels"] = content["labels"].copy()  # the person goes on painting
            self._worker = create_worker(self._write, key, kept.image.name, content)
            self._worker.returned.connect(self._written)
            self._worker.start()
            return

    def _write(self, key: Any, name: str, content: dict[str, Any]) -> tuple[Any, str, str]:
        try:
            with protected(key[0].source.path):
                kept = self._kept.get(key)
                if kept is None:  # removed in the meantime
                    return key, "", ""
                return key, self.project.add(name, **content, replace=kept.name), ""
        except UserError as error:
            return key, "", str(error)

    def _written(self, answer: tuple[Any, str, str]) -> None:
        key, name, problem = answer
        self._worker = None
        if problem:
            self.failed.emit(problem)
        elif key in self._kept and name:
            self._kept[key].name = name
            self.saved.emit(name)
        self._timer.start()  # others may wait


def _place(labels: Labels, step: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(step[-labels.ndim : -2]) if labels.ndim > 2 else ()


def _content(image: Image, labels: Labels, steps: Steps, *, edited_only: bool) -> dict[str, Any]:
    return {
        "image": plane_of_image(image, labels, steps[0]),
        "labels": plane_of_labels(labels, steps[1]),
        "only": edited_pixels(labels) if edited_only else None,
    }


def plane_of_labels(labels: Labels, step: tuple[int, ...]) -> NDArray[Any]:
    """The (H, W) labels, or the plane of them that is shown."""
    shape = labels.data.shape
    shown = tuple(int(np.clip(s, 0, n - 1)) for s, n in zip(step[:-2], shape[:-2], strict=True))
    return np.asarray(labels.data[shown])


def plane_of_image(image: Image, labels: Labels, step: tuple[int, ...]) -> NDArray[Any]:
    """The 2D image that the labels belong to: the plane they were made from, or the one that is shown."""
    data = image.data[0] if image.multiscale else image.data
    mark = labels.metadata.get(KEY)
    made_here = isinstance(mark, dict) and mark.get("image_id") == str(image.unique_id)
    if made_here and labels.data.ndim == 2 and "index" in mark:
        return np.asarray(data[tuple(slice(None) if i is None else int(i) for i in mark["index"])])
    channel = mark["settings"].get("channel") if made_here else None
    return np.asarray(take_plane(data, layout_of_layer(image), step=step, channel=channel).image)


def edited_pixels(labels: Labels) -> NDArray[np.bool_]:
    """(…, H, W), True in nuclei that a person accepted, edited or drew.

    Raises
    ------
    UserError
        If nobody knows what the network drew.
    """
    view = view_of(labels)
    if view is None:
        raise UserError("only labels that Segment made can tell what was edited: keep the whole frame")
    view.take_over()
    document = view.document
    reviewed = [label for label, nucleus in document.nuclei.items() if nucleus.state in REVIEWED]
    return np.isin(document.labels, reviewed)
