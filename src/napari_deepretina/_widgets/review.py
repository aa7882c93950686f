"""Going through nuclei by hand: what is doubtful first, accept or mend, all of it undoable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from magicgui.widgets import ComboBox, FloatSpinBox
from napari.layers import Image
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QMainWindow, QPushButton, QVBoxLayout, QWidget

from napari_deepretina._widgets.document_view import DocumentView
from napari_deepretina._widgets.jobs import ModelCache, segment_job
from napari_deepretina._widgets.own_labels import KEY
from napari_deepretina._widgets.placing import look_at, step_of
from napari_deepretina._widgets.running import RunBox
from napari_deepretina._widgets.table import NucleiTable
from napari_deepretina._widgets.teaching import CHANGED, Teaching
from napari_deepretina._widgets.tools_layer import ChosenOutline, ToolsLayer
from napari_deepretina.document import Document
from napari_deepretina.document.changes import Index
from napari_deepretina.errors import UserError
from napari_deepretina.instances import editing
from napari_deepretina.model.weights import find, read_info

HINT = "Click on a nucleus, in the image or in the table."
FILTERS = {
    "all nuclei": (),
    "not yet reviewed": ("found",),
    "accepted": ("accepted",),
    "edited": ("edited",),
    "drawn": ("drawn",),
    CHANGED: (),
}
AROUND = 8
"""Diameters of the chosen nucleus that the view shows."""
KEYS = {
    "A": "accept", "Delete": "delete", "N": "next", "P": "previous", "M": "merge", "S": "split",
    "Escape": "leave", "Control-Z": "undo", "Control-Shift-Z": "redo",
}  # fmt: skip
"""What a key does while a result's layer is active."""


class ReviewPanel(QWidget):
    """A table of nuclei and what can be done to the one chosen."""

    def __init__(self, viewer: Any, box: RunBox) -> None:
        super().__init__()
        self._viewer, self._box = viewer, box
        self._models = ModelCache()
        self._tool = ""
        self._only: frozenset[int] | None = None
        self.view: DocumentView | None = None
        self.tools = ToolsLayer(viewer, lambda: self._guarded(self._finish_tool))
        self.outline = ChosenOutline(viewer)
        self.teaching = Teaching(self, viewer, box, self._image_of)
        self.table = NucleiTable()
        self.table.chosen.connect(self.go_to)
        self.shown = ComboBox(choices=list(FILTERS))
        self.shown.native.setObjectName("shown")
        self.shown.changed.connect(self.refresh)
        self.progress = QLabel("")
        self.progress.setObjectName("reviewed")
        self.told = QLabel(HINT)
        self.told.setObjectName("chosen")
        self.told.setWordWrap(True)
        self.told.setMinimumHeight(2 * self.told.fontMetrics().lineSpacing())  # nothing jumps
        self.scale = FloatSpinBox(label="scale", value=2, min=0.25, max=8, step=0.25)
        self.scale.native.setObjectName("again_scale")
        self.scale.tooltip = "How many times larger the box is looked at than the whole image was."
        layout = QVBoxLayout(self)
        above = QHBoxLayout()
        above.addWidget(self.shown.native)
        above.addWidget(self.progress, stretch=1)
        layout.addLayout(above)
        layout.addWidget(self.table, stretch=1)
        layout.addWidget(self.told)
        grid = QGridLayout()
        layout.addLayout(grid)
        self._buttons: dict[str, QPushButton] = {}
        self._actions = {name: action for name, _, _, action in self._all_actions()}
        for place, (name, text, tip, _) in enumerate(self._all_actions()):
            button = self._buttons[name] = QPushButton(text)
            button.setObjectName(name)
            button.setToolTip(tip)
            button.clicked.connect(lambda _=False, name=name: self.do(name))
            if name == "teach":
                above.addWidget(button)
            else:
                grid.addWidget(button, place // 3, place % 3)
        grid.addWidget(self.scale.native, 3, 2)
        for key in ("Control-Z", "Control-Shift-Z"):  # whichever layer is active
            viewer.bind_key(key, lambda _, name=KEYS[key]: self.do(name), overwrite=True)
        self._enable()

    def _all_actions(self) -> list[tuple[str, str, str, Callable[[], None]]]:
        return [
            ("previous", "◀ previous", "The row above (P)", lambda: self.step(-1)),
            ("next", "next ▶", "The row below: the next doubtful one (N)", lambda: self.step(1)),
            ("accept", "accept", "This nucleus is right: keep it, whatever the sliders do (A)", self.accept),
            ("delete", "delete", "Erase this nucleus (Delete)", self.delete),
            ("release", "release", "Give this nucleus back to the sliders", self.release),
            ("merge", "merge", "Draw a line: the nuclei under it become one (M)", lambda: self.draw("merge")),
            ("split", "split", "Draw a line: it cuts the nuclei under it (S)", lambda: self.draw("split")),
            ("again", "look again", "Draw a box: the network looks inside at another scale",
             lambda: self.draw("again")),
            ("leave", "put tool down", "Back to the labels; choose nothing (Esc)", self.leave),
            ("undo", "undo", "Take back the last step, whatever it was (Ctrl+Z)", self.undo),
            ("redo", "redo", "Do it again (Ctrl+Shift+Z)", self.redo),
            ("teach", "Teach", "Learn from what was corrected, and look again: takes seconds",
             lambda: self.teaching.begin(self._held())),
        ]  # fmt: skip

    # ---- what is shown ----

    def show_view(self, view: DocumentView | None) -> None:
        """Review this result from now on."""
        if view is not self.view:
            if self.view is not None and self.refresh in self.view.listeners:
                self.view.listeners.remove(self.refresh)
            self.view = view
            if view is not None:
                view.listeners.append(self.refresh)
                for key, name in KEYS.items():
                    view.layer.bind_key(key, lambda _, name=name: self.do(name), overwrite=True)
        self.refresh()

    def refresh(self, _: Any = None) -> None:
        """Show the nuclei as they are now."""
        self._enable()
        if self.view is None:
            self.table.show_columns({})
            self.outline.hide()
            self.progress.setText("")
            return
        document = self.view.document
        only = self.teaching.changed if self.shown.value == CHANGED else self._only
        self.table.show_columns(doubtful_first(document, FILTERS[self.shown.value], only))
        self.table.mark(document.chosen)
        self.outline.show(self.view.layer, document.chosen)
        done, every = document.reviewed()
        self.progress.setText(f"{done} of {every} reviewed")
        self.told.setText(self._about(document) or HINT)

    def show_only(self, ids: frozenset[int] | None) -> None:
        """List these nuclei only, such as those in a range of a measurement; None for all."""
        if ids != self._only:
            self._only = ids
            self.refresh()

    def _about(self, document: Document) -> str:
        """What is known of the chosen nucleus, as a sentence."""
        label = document.chosen
        if not label:
            return ""
        nucleus, area = document.nuclei[label], document.area(label)
        score = "" if nucleus.score is None else f"score {nucleus.score:.2f}, "
        views = document.view_count
        several = views > 1 and nucleus.source == "network"
        seen = f"seen by {nucleus.votes} of {views} views, " if several else ""
        return f"Nucleus {label}: {score}{seen}{area} pixels, {nucleus.state}"

    def _enable(self) -> None:
        chosen = self.view is not None and bool(self.view.document.chosen)
        for name in ("accept", "delete", "release"):
            self._buttons[name].setEnabled(chosen)
        for name, keys in (("undo", "Ctrl+Z"), ("redo", "Ctrl+Shift+Z")):
            step = "" if self.view is None else getattr(self.view, f"can_{name}")
            self._buttons[name].setEnabled(bool(step))
            self._buttons[name].setToolTip(f"{name.capitalize()}{step and ': ' + step} ({keys})")

    @property
    def chosen(self) -> int:
        """Id of the nucleus that is reviewed, 0 if none."""
        return self.view.document.chosen if self.view is not None else 0

    def choose(self, label: int) -> None:
        """Make a nucleus the one that is reviewed; 0 for none."""
        self._held().choose(label)

    def go_to(self, label: int) -> None:
        """Choose a nucleus and show it from near."""
        view = self._held()
        view.choose(label)
        where = np.argwhere(view.document.labels == label)
        if not len(where):
            return
        here = view.index(step_of(self._viewer, view.layer))
        planes = where[:, :-2]
        if len(here) and not (planes == here).all(axis=1).any():
            here = tuple(planes[0].tolist())
        inside = where[(planes == here).all(axis=1)]
        diameter = 2 * np.sqrt(len(inside) / np.pi)
        place = (*here, *inside.mean(axis=0)[-2:])
        look_at(self._viewer, view.layer, place, AROUND * diameter, self._canvas_side())

    def _canvas_side(self) -> int:
        """Shorter side of the canvas, in screen pixels."""
        window = self.window()
        canvas = window.centralWidget() if isinstance(window, QMainWindow) else window
        return min(canvas.width(), canvas.height())

    def step(self, by: int) -> None:
        """Go to the row below (1) or above (-1) the chosen one; to the first, if none is chosen."""
        labels = self.table.labels
        self._held()
        if not len(labels):
            raise UserError("there are no nuclei to review")
        where = np.flatnonzero(labels == self.chosen)
        self.go_to(int(labels[(where[0] + by) % len(labels)] if len(where) else labels[0]))

    # ---- what is done ----

    def do(self, name: str) -> None:
        """One of the buttons' actions; what cannot be done is told in a sentence."""
        self._guarded(self._actions[name])

    def accept(self) -> None:
        """Mark the chosen nucleus as right, and go on to the next."""
        self._and_on(lambda document: document.accept(document.chosen))

    def delete(self) -> None:
        """Erase the chosen nucleus, and go on to the next."""
        self._and_on(lambda document: document.delete(document.chosen))

    def _and_on(self, deed: Callable[[Document], Any]) -> None:
        document = self._held().document
        if not document.chosen:
            return
        order = self.table.labels
        where = np.flatnonzero(order == document.chosen)
        following = order[(where[0] + 1) % len(order)] if len(where) and len(order) > 1 else 0
        deed(document)
        if document.is_present(int(following)):
            self.go_to(int(following))
        else:
            self.choose(0)

    def release(self) -> None:
        """Give the chosen nucleus back to the sliders."""
        document = self._held().document
        if document.chosen:
            document.release(document.chosen)

    def undo(self) -> None:
        """Take back the last step; the keys are the viewer's, and may mean nothing here."""
        if self.view is not None:
            self._held().undo()

    def redo(self) -> None:
        """Do again what was undone last."""
        if self.view is not None:
            self._held().redo()

    def draw(self, tool: str) -> None:
        """Take up a tool: what is drawn next merges, splits, or is looked at again."""
        self._tool = tool
        self.tools.begin(self._held().layer, "rectangle" if tool == "again" else "line")
        for key in ("Escape", "Control-Z", "Control-Shift-Z"):
            tools = self.tools.layer(self._held().layer)
            tools.bind_key(key, lambda _, name=KEYS[key]: self.do(name), overwrite=True)

    def leave(self) -> None:
        """Put the tool down; with none in hand, choose no nucleus."""
        view = self._held()
        if not self._tool:
            self.choose(0)
        self._tool = ""
        self.tools.leave(view.layer)

    def _finish_tool(self) -> None:
        """The mouse was released: do what the tool is for."""
        view, tool = self._held(), self._tool
        index = view.index(step_of(self._viewer, view.layer))
        try:
            if tool == "again":
                self._look_again(view, self.tools.box(view.layer), index)
            elif tool:
                line = self.tools.line(view.layer)
                ids = editing.ids_under(view.document.labels[index], line)
                if tool == "merge":
                    view.choose(int(view.document.merge(ids.tolist()).after[0]))
                else:
                    view.document.split(ids.tolist(), line, index)
        finally:
            self._tool = ""
            self.tools.leave(view.layer)

    def _look_again(self, view: DocumentView, box: tuple[int, int, int, int], index: Index) -> None:
        """Run the network inside a box, off the GUI thread."""
        mark = view.layer.metadata[KEY]
        image = self._image_of(mark, index)
        settings = dict(mark["settings"])
        trained = read_info(find(settings["weights"])).diameter
        settings |= {
            "channel": None,
            "planes": "all",
            "diameter": trained / (mark["scale"] * float(self.scale.value)),
            "tta": "none",
        }
        x0, y0, x1, y1 = box
        self._box.start(
            "Look again",
            segment_job,
            image[y0:y1, x0:x1],
            settings,
            self._models,
            done=lambda result: self._guarded(lambda: self._put_in(view, box, index, result.instances)),
        )

    def _put_in(self, view: DocumentView, box: Any, index: Index, found: Any) -> None:
        if self.view is not view:
            raise UserError("another result was chosen meanwhile; nothing was changed")
        view.document.put_in(box, found, index)
        self._box.say(f"{len(found)} {'nucleus' if len(found) == 1 else 'nuclei'} found in the box")

    def _image_of(self, mark: dict[str, Any], index: Index) -> np.ndarray:
        """The plane that the labels were made from."""
        images = [x for x in self._viewer.layers if isinstance(x, Image)]
        layers = [x for x in images if str(x.unique_id) == mark["image_id"]]
        layers = layers or [x for x in images if x.name == mark["image"]]
        if not layers:
            raise UserError(f"the image {mark['image']!r} is not open any more")
        data = layers[0].data[0] if layers[0].multiscale else layers[0].data
        place = tuple(slice(None) if i is None else int(i) for i in mark["index"])
        return np.asarray(data[place])[index]

    def _held(self) -> DocumentView:
        if self.view is None or self.view.layer not in self._viewer.layers:
            raise UserError("there are no nuclei to review: run Segment nuclei first")
        self.view.sync()
        return self.view

    def _guarded(self, action: Callable[[], None]) -> None:
        """Run an action; what cannot be done is told in a sentence."""
        from napari.utils.notifications import show_error

        try:
            action()
        except UserError as error:
            self._box.say(str(error), show_error)


def doubtful_first(
    document: Document, states: tuple[str, ...] = (), only: frozenset[int] | None = None
) -> dict[str, np.ndarray]:
    """Rows of the table, in the order in which a person looks at them.

    What nobody has looked at comes first, the least sure of it before all: a low score, or few of the views.
    """
    known = document.known()
    share = known["votes"] / max(1, document.view_count)
    sure = np.where(known["source"] == "network", known["score"] * share, known["score"])
    order = np.lexsort((np.nan_to_num(sure, nan=1.0), known["state"] != "found"))
    if only is not None:
        order = order[np.isin(known["index"][order], list(only))]
    if states:
        order = order[np.isin(known["state"][order], states)]
    return {name: column[order] for name, column in known.items()}
