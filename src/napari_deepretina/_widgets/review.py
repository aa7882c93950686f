"""Going through nuclei by hand: what is doubtful first, accept or mend, all of it undoable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from magicgui.widgets import FloatSpinBox
from napari.layers import Image, Labels, Shapes
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_deepretina._widgets.jobs import ModelCache, segment_job
from napari_deepretina._widgets.own_labels import KEY
from napari_deepretina._widgets.placing import camera_of, placement
from napari_deepretina._widgets.running import RunBox
from napari_deepretina._widgets.table import NucleiTable
from napari_deepretina.errors import UserError
from napari_deepretina.instances import editing
from napari_deepretina.instances.labels import LabelImage
from napari_deepretina.model.weights import find, read_info
from napari_deepretina.postprocess.tuning import TuneSession

TOOLS = "Deep Retina tools"
HINT = "Click on a nucleus, in the image or in the table."


class ReviewPanel(QWidget):
    """A table of nuclei and what can be done to the one chosen.

    Pixels are changed through the layer's own history, so napari's undo (Ctrl+Z) works too; the Undo
    button here also takes back an acceptance.
    """

    edited = Signal()

    def __init__(self, viewer: Any, box: RunBox) -> None:
        super().__init__()
        self._viewer, self._box = viewer, box
        self._models = ModelCache()
        self._history: list[int | None] = []
        self.layer: Labels | None = None
        self.session: TuneSession | None = None
        self.table = NucleiTable()
        self.table.chosen.connect(self.go_to)
        self.told = QLabel(HINT)
        self.told.setObjectName("chosen")
        self.told.setWordWrap(True)
        self.scale = FloatSpinBox(label="scale", value=2, min=0.25, max=8, step=0.25)
        self.scale.native.setObjectName("again_scale")
        self.scale.tooltip = "How much larger the box is looked at than the whole image was."
        layout = QVBoxLayout(self)
        layout.addWidget(self.table, stretch=1)
        layout.addWidget(self.told)
        grid = QGridLayout()
        layout.addLayout(grid)
        for place, (name, text, tip, action) in enumerate(self._actions()):
            button = QPushButton(text)
            button.setObjectName(name)
            button.setToolTip(tip)
            button.clicked.connect(lambda _=False, action=action: self._guarded(action))
            grid.addWidget(button, place // 3, place % 3)
        grid.addWidget(self.scale.native, 3, 2)

    def _actions(self) -> list[tuple[str, str, str, Callable[[], None]]]:
        return [
            ("previous", "◀ previous", "The row above", lambda: self.step(-1)),
            ("next", "next ▶", "The row below: the next doubtful one", lambda: self.step(1)),
            ("accept", "accept", "This nucleus is right: keep it, whatever the sliders do", self.accept),
            ("delete", "delete", "Erase this nucleus", self.delete),
            ("release", "release", "Give this nucleus back to the sliders", self.release),
            ("undo", "undo", "Take back the last step", self.undo),
            ("line", "draw a line", "Draw a line, then merge or split", lambda: self.draw("line")),
            ("merge", "merge", "Make one of all nuclei under the line", self.merge),
            ("split", "split", "Cut the nuclei under the line along it", self.split),
            ("rectangle", "draw a box", "Draw a box, then look again", lambda: self.draw("rectangle")),
            ("again", "look again", "Run the network inside the box, at another scale", self.look_again),
        ]

    def show_layer(self, layer: Labels | None, session: TuneSession | None) -> None:
        """Review this layer from now on."""
        if layer is not self.layer:
            self._history = []
        self.layer, self.session = layer, session
        self.refresh()

    def refresh(self) -> None:
        """Show the table of the labels as they are now."""
        label = self.chosen
        if self.layer is None or self.session is None:
            self.table.show_columns({})
            return
        self.table.show_columns(self.session.table(_data(self.layer)))
        self.table.mark(label)

    @property
    def chosen(self) -> int:
        """Id of the nucleus that is reviewed, 0 if none."""
        return int(self.layer.selected_label) if self.layer is not None else 0

    def choose(self, label: int) -> None:
        """Make a nucleus the one that is reviewed, and tell about it."""
        layer, session = self._both()
        layer.selected_label = label
        self.table.mark(label)
        row = self.table.row(label)
        if row is None:
            self.told.setText(HINT)
            return
        self.told.setText(
            f"Nucleus {label}: score {row['score']:.2f}, seen by {row['votes']} of "
            f"{session.raw.view_count} views, {row['area']} pixels, {row['state']}"
        )

    def go_to(self, label: int) -> None:
        """Choose a nucleus and move the camera over it."""
        self.choose(label)
        layer, _ = self._both()
        row = self.table.row(label)
        if row is not None:
            camera_of(self._viewer).center = layer.data_to_world((row["y"], row["x"]))

    def step(self, by: int) -> None:
        """Go to the row below (1) or above (-1) the chosen one; to the first, if none is chosen."""
        labels = self.table.labels
        if not len(labels):
            raise UserError("there are no nuclei to review")
        where = np.flatnonzero(labels == self.chosen)
        self.go_to(int(labels[(where[0] + by) % len(labels)] if len(where) else labels[0]))

    def accept(self) -> None:
        """Mark the chosen nucleus as right, and go on to the next."""
        layer, session = self._both()
        editing.delete(_data(layer), self.chosen)  # tells if there is no such nucleus
        session.look(_data(layer))
        session.accepted.add(self.chosen)
        self._history.append(self.chosen)
        self._go_on(self._following())

    def release(self) -> None:
        """Give the chosen nucleus back to the sliders."""
        _, session = self._both()
        session.release(self.chosen)
        self.edited.emit()

    def delete(self) -> None:
        """Erase the chosen nucleus, and go on to the next."""
        layer, _ = self._both()
        following = self._following()
        self._apply(editing.delete(_data(layer), self.chosen))
        self._go_on(following)

    def _following(self) -> int:
        """Id in the row below the chosen one, 0 if there is none."""
        order = self.table.labels
        where = np.flatnonzero(order == self.chosen)
        return int(order[(where[0] + 1) % len(order)]) if len(where) and len(order) > 1 else 0

    def _go_on(self, label: int) -> None:
        self.refresh()
        if label:
            self.go_to(label)
        else:
            self.told.setText(HINT)

    def merge(self) -> None:
        """Make one of the nuclei under the line."""
        layer, _ = self._both()
        self._apply(editing.merge(_data(layer), editing.ids_under(_data(layer), self._line())))
        self._tools().data = []

    def split(self) -> None:
        """Cut what lies under the line."""
        layer, session = self._both()
        line = self._line()
        ids = editing.ids_under(_data(layer), line)
        if not len(ids):
            raise UserError("there is no nucleus under the line: draw it across one")
        for label in ids.tolist():
            data = _data(layer)
            self._apply(editing.split(data, label, line, session.new_id(data)))
        self._tools().data = []

    def undo(self) -> None:
        """Take back the last acceptance or change of pixels."""
        layer, session = self._both()
        last = self._history.pop() if self._history else None
        if last is None:
            layer.undo()
        else:
            session.accepted.discard(last)
        self.refresh()

    def draw(self, shape: str) -> None:
        """Let a person draw a line or a rectangle over the labels."""
        tools = self._tools()
        tools.data = []
        self._viewer.layers.selection.active = tools
        tools.mode = f"add_{shape}"

    def look_again(self) -> None:
        """Run the network inside the drawn box, off the GUI thread."""
        layer, _ = self._both()
        box = self._rectangle(_data(layer).shape)
        mark = layer.metadata[KEY]
        image = self._image_of(mark)
        settings = dict(mark["settings"])
        trained = read_info(find(settings["weights"])).diameter
        settings |= {
            "channel": None,
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
            done=lambda result: self._guarded(lambda: self._put_in(layer, box, result.instances)),
        )

    def _put_in(self, layer: Labels, box: tuple[int, int, int, int], found: Any) -> None:
        current, session = self._both()
        if current is not layer:
            raise UserError("another layer was chosen meanwhile; nothing was changed")
        data = _data(layer)
        session.look(data)
        keep = np.array(sorted(session.touched | session.accepted), np.int64)
        first = session.new_id(data)
        change = editing.replace_within(data, box, found, first, keep)
        self._apply(change)
        self._tools().data = []
        self._box.say(f"{len(found)} nuclei found in the box")

    def _image_of(self, mark: dict[str, Any]) -> np.ndarray:
        """The plane that the labels were made from."""
        images = [x for x in self._viewer.layers if isinstance(x, Image)]
        layers = [x for x in images if str(x.unique_id) == mark["image_id"]]
        layers = layers or [x for x in images if x.name == mark["image"]]
        if not layers:
            raise UserError(f"the image {mark['image']!r} is not open any more")
        data = layers[0].data[0] if layers[0].multiscale else layers[0].data
        index = tuple(slice(None) if i is None else int(i) for i in mark["index"])
        return np.asarray(data[index])

    def _apply(self, change: editing.Change) -> None:
        layer, _ = self._both()
        indices, values = change
        layer.data_setitem(indices, values)
        self._history.append(None)
        self.refresh()

    def _line(self) -> np.ndarray:
        lines = [s for s, kind in self._drawn() if kind == "line"]
        if not lines:
            raise UserError("draw a line first: press 'draw a line' and drag across the nuclei")
        return np.asarray(lines[-1], float)

    def _rectangle(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        boxes = [np.asarray(s, float) for s, kind in self._drawn() if kind == "rectangle"]
        if not boxes:
            raise UserError("draw a box first: press 'draw a box' and drag around the nuclei")
        low = np.clip(np.floor(boxes[-1].min(axis=0)), 0, shape).astype(int)
        high = np.clip(np.ceil(boxes[-1].max(axis=0)) + 1, 0, shape).astype(int)
        if (high - low < 8).any():
            raise UserError("the box is too small: draw one of at least 8 pixels a side")
        return int(low[1]), int(low[0]), int(high[1]), int(high[0])

    def _drawn(self) -> list[tuple[Any, str]]:
        tools = self._tools()
        return list(zip(tools.data, tools.shape_type, strict=True))

    def _tools(self) -> Shapes:
        """The layer to draw on, laid exactly over the labels; made when first needed."""
        layer, _ = self._both()
        found = [x for x in self._viewer.layers if isinstance(x, Shapes) and x.name == TOOLS]
        if found:
            if found[0].metadata.get(TOOLS) != str(layer.unique_id):  # it lay over other labels
                found[0].data = []
                for name, value in placement(layer, (0, 1)).items():
                    setattr(found[0], name, value)
                found[0].metadata = {TOOLS: str(layer.unique_id)}
            return found[0]
        tools = Shapes(
            ndim=2, name=TOOLS, edge_color="yellow", face_color="transparent", **placement(layer, (0, 1))
        )
        tools.edge_width = 1
        tools.metadata = {TOOLS: str(layer.unique_id)}
        self._viewer.add_layer(tools)
        return tools

    def _both(self) -> tuple[Labels, TuneSession]:
        if self.layer is None or self.session is None or self.layer not in self._viewer.layers:
            raise UserError("there are no nuclei to review: run Segment nuclei first")
        return self.layer, self.session

    def _guarded(self, action: Callable[[], None]) -> None:
        """Run an action; what cannot be done is told in a sentence."""
        from napari.utils.notifications import show_error

        try:
            action()
        except UserError as error:
            message = str(error)
            self._box.say(message[:1].upper() + message[1:], show_error)


def _data(layer: Labels) -> LabelImage:
    return np.asarray(layer.data)
