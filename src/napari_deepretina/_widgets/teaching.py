"""Teach, in Review: the network learns from a person's corrections, and looks again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from napari.layers import Labels, Shapes
from napari.utils.notifications import show_info, show_warning
from qtpy.QtWidgets import QApplication, QInputDialog, QMessageBox, QWidget

from napari_deepretina._widgets.document_view import DocumentView
from napari_deepretina._widgets.hub import hub
from napari_deepretina._widgets.own_labels import KEY
from napari_deepretina._widgets.placing import placement
from napari_deepretina._widgets.running import Offer, RunBox
from napari_deepretina._widgets.teaching_jobs import Taught, Teachers, keep_job, planes_of, teach_job
from napari_deepretina._widgets.tools_layer import outlines
from napari_deepretina.document import Document
from napari_deepretina.document.changes import Index
from napari_deepretina.document.making import seen_anew
from napari_deepretina.errors import UserError
from napari_deepretina.instances.labels import bounding_boxes

CHANGED = "changed by teaching"
COLOURS = {"new": "lime", "changed": "yellow"}
MOST_MARKED = 2000
"""Nuclei that are marked; to draw more takes napari seconds."""


class Teaching:
    """What the button *Teach* does.

    Parameters
    ----------
    parent : of dialogs.
    box : where it runs, reports, and offers what may follow.
    image_of : the image of a plane of a result, by the result's mark.

    Attributes
    ----------
    changed : ids of nuclei that are new or have another outline since the last teaching.
    """

    def __init__(
        self,
        parent: QWidget,
        viewer: Any,
        box: RunBox,
        image_of: Callable[[dict[str, Any], Index], np.ndarray],
    ) -> None:
        self._parent, self._viewer, self._box, self._image_of = parent, viewer, box, image_of
        self._teachers = Teachers()
        self._taught: Taught | None = None
        self._view: DocumentView | None = None
        self._document: Document | None = None  # that teaching made
        self._marks: Shapes | None = None
        self.changed: frozenset[int] = frozenset()

    def begin(self, view: DocumentView) -> None:
        """Learn from what was corrected in a result; returns at once.

        Raises
        ------
        UserError
            If nothing was corrected, or the image has gone.
        """
        if self._box.worker is not None:
            raise UserError("something is running already: wait for it, or cancel it")
        mark = view.layer.metadata[KEY]
        planes = planes_of(view.document, lambda index: self._image_of(mark, index), mark)
        document = view.document
        self._box.start(
            "Teach",
            teach_job,
            planes,
            self._teachers,
            done=lambda taught: self._done(view, taught, replaced=view.document is not document),
        )

    def _done(self, view: DocumentView, taught: Taught, *, replaced: bool) -> None:
        """Show what the taught network sees, and offer what may follow."""
        self._taught, self._view = taught, view
        told = f"{taught.lessons} {taught.seconds:.0f} s."
        if replaced or view.layer not in self._viewer.layers:
            self._box.say(
                f"{told} The nuclei were replaced meanwhile, so they stay as they are.", show_warning
            )
        elif not taught.lessons.helped:
            self._box.say(f"{told} More corrections may help.", show_warning)
            self._box.offer([Offer("Teach more", "Learn again, with all corrections", self._again)])
            return
        else:
            told = f"{told} {self._show(view, taught)}"
            self._box.say(told, show_info)
        self._box.offer(
            [
                Offer("Keep…", "Give what was learnt a name, and use it on other images", self.keep),
                Offer("Undo", "Back to the nuclei of before", self.undo),
                Offer("Teach more", "Learn again, with the corrections made since", self._again),
            ]
        )

    def _show(self, view: DocumentView, taught: Taught) -> str:
        """Put the new nuclei into the layer; what changed, as a sentence."""
        view.sync()
        document, told = seen_anew(view.document, taught.seen)
        view.replace(document, what="teach")
        self._document = document
        self._mark(view.layer, told)
        self.changed = told["new"] | told["changed"]
        view.choose(0)  # the table lists what changed
        hub.shown.emit(view.layer)
        counts = ", ".join(f"{len(told[what])} {what}" for what in ("new", "changed", "gone"))
        return f"Nuclei: {counts}."

    def _again(self) -> None:
        view = self._view
        if view is not None:
            self._guarded(lambda: self.begin(view))

    def undo(self) -> None:
        """The nuclei as they were before teaching; what was corrected since can be had back by redo."""
        view = self._view
        if view is not None and view.document is self._document and view.before():
            self.forget_marks()
            self._box.offer([])
            self._box.say("The nuclei are those of before teaching.")

    def keep(self) -> None:
        """Ask for a name, and keep what was learnt as weights."""
        name, agreed = QInputDialog.getText(
            self._parent, "Keep what was learnt", "Name, by which Segment knows it:", text=self._suggestion()
        )
        if agreed:
            self._guarded(lambda: self.keep_as(name.strip()))

    def keep_as(self, name: str) -> None:
        """Keep what was learnt as weights of this name; returns at once.

        Raises
        ------
        UserError
            If the name will not do.
        """
        from napari_deepretina.model.weights import available
        from napari_deepretina.teaching.session import is_taught, target_of

        if self._taught is None:
            raise UserError("nothing was taught yet")
        known = available().get(name)
        overwrite = known is not None and is_taught(known) and self._may_replace(name)
        target_of(name, overwrite=overwrite)
        self._box.start(
            "Keep", keep_job, self._taught, name, overwrite, done=lambda path: self._kept(name, path)
        )

    def _may_replace(self, name: str) -> bool:
        answer = QMessageBox.question(
            self._parent, "Replace weights", f"Replace the taught weights {name!r} by these?"
        )
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _kept(self, name: str, path: Any) -> None:
        from napari_deepretina._widgets.segment import SegmentWidget

        self._teachers.known.add(path)
        if self._view is not None:
            mark = self._view.layer.metadata.get(KEY)
            if mark is not None:
                mark["settings"] = {**mark["settings"], "weights": name}
        for widget in QApplication.allWidgets():
            if isinstance(widget, SegmentWidget):
                widget.refresh_weights()
                widget.use_weights(name)
        self.forget_marks()
        self._box.offer([])
        self._box.say(f"Kept as {name!r}: Segment uses it now, on this and on other images.")

    def _suggestion(self) -> str:
        from napari_deepretina.model.weights import available

        image = "" if self._view is None else str(self._view.layer.metadata[KEY].get("image", ""))
        base = f"{image or 'nuclei'} taught"
        known, number, name = available(), 1, base
        while name in known:
            number += 1
            name = f"{base} {number}"
        return name.replace("/", " ").replace("\\", " ")

    # ---- marks ----

    def _mark(self, over: Labels, told: dict[str, frozenset[int]]) -> None:
        """Outline what is new and what changed."""
        self.forget_marks()
        paths: list[Any] = []
        colours: list[str] = []
        for what, colour in COLOURS.items():
            mine = paths_around(np.asarray(over.data), sorted(told[what])[: MOST_MARKED - len(paths)])
            paths += mine
            colours += [colour] * len(mine)
        if not paths:
            return
        active = self._viewer.layers.selection.active
        self._marks = Shapes(
            paths, shape_type="path", name=CHANGED, edge_color=colours, edge_width=1.5,
            face_color="transparent", **placement(over, range(over.ndim)),
        )  # fmt: skip
        self._viewer.add_layer(self._marks)
        self._viewer.layers.selection.active = active

    def forget_marks(self) -> None:
        """Take the outlines away."""
        self.changed = frozenset()
        if self._marks is not None and self._marks in self._viewer.layers:
            self._viewer.layers.remove(self._marks)
        self._marks = None

    def _guarded(self, action: Callable[[], None]) -> None:
        from napari.utils.notifications import show_error

        try:
            action()
        except UserError as error:
            self._box.say(str(error), show_error)


def paths_around(labels: np.ndarray, ids: list[int]) -> list[np.ndarray]:
    """Closed paths (N, ndim) around nuclei of (…, H, W) labels, each looked for in its own box only."""
    paths = []
    for index in np.ndindex(labels.shape[:-2]):
        known, boxes = bounding_boxes(labels[index])
        mine = np.isin(known, ids)
        for label, (x0, y0, x1, y1) in zip(known[mine].tolist(), boxes[mine].tolist(), strict=True):
            corner = np.array([*index, y0, x0], float)
            for path in outlines(labels[index][y0:y1, x0:x1], label):
                paths.append(np.pad(path, ((0, 0), (len(index), 0))) + corner)
    return paths
