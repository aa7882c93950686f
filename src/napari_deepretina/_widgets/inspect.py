"""The Inspect widget: every step of a detection, activations, weights, data and errors."""

from __future__ import annotations

from typing import Any

import napari.viewer
import numpy as np
from magicgui.widgets import ComboBox, FloatSlider, FloatSpinBox, LineEdit
from napari.layers import Image, Labels
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QLabel,
    QPushButton,
    QSlider,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_deepretina._widgets.closing import keep_changed
from napari_deepretina._widgets.dock import Dock
from napari_deepretina._widgets.fitting import elide_lists, scrolled, tab_in_order
from napari_deepretina._widgets.inspect_jobs import data_job, detection_job, errors_job, weights_job
from napari_deepretina._widgets.jobs import ModelCache
from napari_deepretina._widgets.learning_tab import LearningTab
from napari_deepretina._widgets.picture import Picture
from napari_deepretina._widgets.placing import (
    centre_on,
    check_shown,
    full_data,
    layout_of_layer,
    placement,
    step_of,
)
from napari_deepretina._widgets.running import RunBox
from napari_deepretina._widgets.step_layers import PREFIX, StepLayers, errors_layer, remove_errors, scores_of
from napari_deepretina._widgets.table import Table
from napari_deepretina._widgets.tips import INSPECT, explain
from napari_deepretina.errors import UserError
from napari_deepretina.evaluation.scores import threshold_table
from napari_deepretina.inference.planes import take_plane
from napari_deepretina.inspection import STEPS
from napari_deepretina.inspection.errors import KINDS
from napari_deepretina.model.weights import advised_score, available
from napari_deepretina.training.recipe import shipped_recipes

NONE = "–"
STORY_HINT = "Click a nucleus for its story, or a place where one was missed."
MAPS = ("C2", "C3", "C4", "C5", "P2", "P3", "P4", "P5", "P6")


class InspectWidget(Dock):
    """Tabs that each answer one question: how was it found, what does the network see, what is wrong."""

    title = "Inspect"
    page = "inspect"

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self._models = ModelCache()
        self.steps: StepLayers | None = None
        self._image: np.ndarray | None = None
        self.dataset: Any = None
        self._build()
        self.keep_values("weights", "score", "diameter", "path")
        events = napari_viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.connect(self._refresh_layers)
        self._refresh_layers()
        napari_viewer.mouse_drag_callbacks.append(self._on_click)

    # ---- form ----

    def _build(self) -> None:
        self.image = ComboBox(label="image", choices=lambda _: self._names(Image))
        self.weights = ComboBox(label="weights", choices=lambda _: list(available()))
        self.score = FloatSlider(label="lowest score", min=0.05, max=0.95, step=0.01, value=0.5)
        self.diameter = FloatSpinBox(label="diameter, px", min=0, max=2000, step=1, value=0)
        self.diameter.native.setSpecialValueText("automatic")
        self.box = RunBox(self._viewer, "Choose an image and press Run.")
        self.box.asked.connect(self.run)
        layout = scrolled(self)
        layout.addLayout(self.rows("image", "weights", "score", "diameter"))
        layout.addWidget(self.box)
        self.tabs = QTabWidget()
        self.tabs.setObjectName("tabs")
        self.learning = LearningTab(self)
        for title, build in (
            ("Detection", self._detection_tab),
            ("Activations", self._activations_tab),
            ("Weights", self._weights_tab),
            ("Data", self._data_tab),
            ("Errors", self._errors_tab),
            ("Training", lambda: self.learning),
        ):
            self.tabs.addTab(build(), title)
        self.tabs.setCornerWidget(self.help_button())
        layout.addWidget(self.tabs, 1)
        elide_lists(self)
        tab_in_order(self)
        explain(self, INSPECT)
        self.weights.changed.connect(self._take_advice)
        self._take_advice()

    def _take_advice(self, _: Any = None) -> None:
        if self.weights.value and (advice := advised_score(self.weights.value)) is not None:
            self.score.value = advice

    def _button(self, name: str, text: str, action: Any) -> QPushButton:
        button = QPushButton(text)
        button.setObjectName(name)
        button.clicked.connect(lambda _=False: self._guarded(action))
        return button

    def _tab(self, *parts: Any) -> QWidget:
        tab = QWidget()
        layout = QVBoxLayout(tab)
        for part in parts:
            add = layout.addLayout if isinstance(part, QFormLayout) else layout.addWidget
            add(part)
        if not isinstance(parts[-1], Table | Picture):
            layout.addStretch()
        return tab

    def _detection_tab(self) -> QWidget:
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setObjectName("step")
        self.slider.setRange(0, len(STEPS) - 1)
        self.slider.setValue(len(STEPS) - 1)
        self.slider.setEnabled(False)
        self.slider.valueChanged.connect(self.show_step)
        self.step_name = QLabel("Run first; then the slider walks the steps.")
        self.step_name.setObjectName("step_name")
        self.story = QLabel(STORY_HINT)
        self.story.setObjectName("story")
        self.story.setWordWrap(True)
        self.story_picture = Picture("story_picture")
        return self._tab(self.step_name, self.slider, self.story, self.story_picture)

    def _activations_tab(self) -> QWidget:
        self.map = ComboBox(label="feature map", choices=MAPS, value="P3")
        button = self._button("show_map", "Show as a layer", self.show_map)
        return self._tab(self.rows("map"), button, QLabel("Each channel is a slice; the sliders walk them."))

    def _weights_tab(self) -> QWidget:
        self.other = ComboBox(label="compare with", choices=lambda _: [NONE, *available()])
        self.weights_picture = Picture("weights_picture")
        self.weights_table = Table()
        button = self._button("look_at_weights", "Look at the weights", self.look_at_weights)
        return self._tab(self.rows("other"), button, self.weights_picture, self.weights_table)

    def _data_tab(self) -> QWidget:
        self.path = LineEdit(label="data")
        self.recipe = ComboBox(label="recipe", choices=shipped_recipes(), value="fine-tune")
        self.crops_picture = Picture("crops_picture")
        self.data_picture = Picture("data_picture")
        self.oddities = Table()
        self.oddities.picked.connect(self._jump_to_oddity)
        return self._tab(
            self.rows("path", "recipe"),
            self._button("browse", "Choose a folder…", self._browse),
            self._button("look_at_data", "Look at the data", self.look_at_data),
            self.crops_picture,
            self.data_picture,
            self.oddities,
        )

    def _errors_tab(self) -> QWidget:
        self.truth = ComboBox(label="truth", choices=lambda _: self._names(Labels))
        self.predicted = ComboBox(label="prediction", choices=lambda _: self._names(Labels))
        self.errors_table = QLabel()
        self.errors_table.setObjectName("errors_table")
        self.errors_table.setStyleSheet("font-family: monospace; font-size: 8pt")
        self.errors_picture = Picture("errors_picture")
        self.worst = Table()
        self.worst.picked.connect(self._jump_to_worst)
        button = self._button("look_at_errors", "Compare", self.look_at_errors)
        return self._tab(
            self.rows("truth", "predicted"), button, self.errors_table, self.errors_picture, self.worst
        )

    def _names(self, kind: Any) -> list[str]:
        return [x.name for x in self._viewer.layers if isinstance(x, kind) and not x.name.startswith(PREFIX)]

    def _refresh_layers(self, event: Any = None) -> None:
        for control in (self.image, self.truth, self.predicted, self.learning.truth):
            control.reset_choices()

    def _layer(self, name: str | None) -> Any:
        return next((x for x in self._viewer.layers if x.name == name), None)

    # ---- detection ----

    def run(self) -> None:
        """Inspect the chosen layer's plane that is shown; returns at once."""
        layer = self._layer(self.image.value)
        if layer is None:
            self.box.say("There is no image layer: open an image first.", show_error)
            return
        try:
            check_shown(self._viewer, layer)
            plane = take_plane(full_data(layer), layout_of_layer(layer), step=step_of(self._viewer, layer))
        except UserError as error:
            self.box.say(str(error), show_error)
            return
        placed, image = placement(layer, plane.axes), plane.image
        self.box.start(
            f"Inspect {layer.name}", detection_job, image, self.weights.value, "auto",
            round(float(self.score.value), 4), float(self.diameter.value) or None, self._models,
            done=lambda inspection: self._on_inspection(inspection, image, placed),
        )  # fmt: skip

    def _on_inspection(self, inspection: Any, image: np.ndarray, placed: dict[str, Any]) -> None:
        if self.steps is not None:
            self.steps.remove()
        self._image = np.asarray(image)
        self.story.setText(STORY_HINT)
        self.story_picture.clear()
        self.steps = StepLayers(self._viewer, inspection, placed)
        self.slider.setEnabled(True)
        self.show_step(self.slider.value())
        self.box.say(f"{len(inspection.instances)} nuclei. The slider walks the steps; click for a story.")

    def show_step(self, number: int) -> None:
        """Show one step's layer."""
        if self.steps is None:
            return
        layer = self.steps.show(STEPS[number])
        count = len(layer.data) if number < 6 else len(self.steps.inspection.instances)
        self.step_name.setText(f"{number + 1} of {len(STEPS)}: {STEPS[number]} ({count})")

    def _on_click(self, viewer: Any, event: Any) -> None:
        """A click, not a drag, on the inspected image while the Detection tab is in front."""
        if self.steps is None or self.isHidden() or self.tabs.currentIndex() != 0:
            return
        layer = next((x for x in self.steps.layers.values() if x in viewer.layers), None)
        if layer is None:
            return
        y, x = (round(float(v)) for v in np.asarray(layer.world_to_data(event.position))[-2:])
        height, width = self.steps.inspection.labels.shape
        if 0 <= y < height and 0 <= x < width:
            self.tell(y, x)

    def tell(self, y: int, x: int) -> None:
        """The story of the nucleus at a pixel, or of the one that was missed there."""
        if self.steps is None or self._image is None:
            return
        from napari_deepretina.inspection.figures import png, story_figure
        from napari_deepretina.inspection.story import story_of, why_missed

        inspection = self.steps.inspection
        self.story_picture.clear()
        label = int(inspection.labels[y, x])
        if label:
            story = story_of(inspection, label)
            self.story.setText(story.sentence)
            self.story_picture.show_png(png(story_figure(story, self._image), 80))
            return
        truth = self._layer(self.truth.value)
        known = np.asarray(truth.data) if truth is not None else None
        fits = known is not None and known.shape == inspection.labels.shape and known[y, x]
        missed = why_missed(inspection, y, x, known if fits else None)
        self.story.setText(f"Lost at: {missed.step}. {missed.sentence}")

    # ---- activations, weights, data, errors ----

    def show_map(self) -> None:
        """Add a feature map as a layer."""
        if self.steps is None:
            raise UserError("run first: feature maps belong to an image")
        self.steps.add_activation(self.map.value)

    def look_at_weights(self) -> None:
        """Histograms, outliers and dead filters, or what two files differ in."""
        other = None if self.other.value == NONE else self.other.value
        self._free()
        self.box.start("Weights", weights_job, self.weights.value, other, self._models, done=self._on_weights)

    def _on_weights(self, result: Any) -> None:
        picture, layers, change = result
        self.weights_picture.show_png(picture)
        columns: dict[str, np.ndarray] = {
            "layer": np.array([x.name for x in layers], dtype=object),
            "far": np.array([x.outliers for x in layers]),
            "dead": np.array([len(x.dead) for x in layers]),
            "std": np.array([x.std for x in layers]),
        }
        if change:
            columns["change"] = np.array([change.get(x.name, {}).get("relative", np.nan) for x in layers])
        self.weights_table.show_columns(columns)
        dead = sum(len(x.dead) for x in layers)
        self.box.say(
            f"{len(layers)} layers, {sum(x.outliers for x in layers)} far values, {dead} dead filters."
        )

    def _browse(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Folder with annotated images")
        self.path.value = chosen or self.path.value

    def look_at_data(self) -> None:
        """Crops as training sees them, numbers, and what is odd."""
        if not self.path.value.strip():
            raise UserError("give a folder or zip with annotated images")
        self._free()
        self.box.start("Data", data_job, self.path.value.strip(), self.recipe.value, done=self._on_data)

    def _on_data(self, result: Any) -> None:
        crops, numbers, told, self.dataset = result
        self.crops_picture.show_png(crops)
        self.data_picture.show_png(numbers)
        odd = told.oddities
        self.oddities.show_columns(
            {
                "kind": np.array([o.kind for o in odd], dtype=object),
                "name": np.array([o.name for o in odd], dtype=object),
                "label": np.array([o.label for o in odd], dtype=int),
                "y": np.array([o.position[0] for o in odd], dtype=int),
                "x": np.array([o.position[1] for o in odd], dtype=int),
                "told": np.array([o.told for o in odd], dtype=object),
            }
        )
        self.box.say(f"{told.images} images, {told.nuclei} nuclei, {len(odd)} things to look at.")

    def _jump_to_oddity(self, row: dict[str, Any]) -> None:
        """Open the image with its labels, and go to the nucleus."""
        if self.dataset is None or row["name"] not in list(self.dataset.names):
            self.box.say(f"{row['name']}: {row['kind']}. There is nothing to show.")
            return
        try:
            sample = self.dataset[list(self.dataset.names).index(row["name"])]
        except UserError as error:
            self.box.say(str(error), show_error)
            return
        if self._layer(sample.name) is None:
            self._viewer.add_image(sample.image, name=sample.name, rgb=sample.image.ndim == 3)
            self._viewer.add_labels(sample.labels, name=f"{sample.name} labels").contour = 1
        centre_on(self._viewer, row["y"], row["x"])

    def look_at_errors(self) -> None:
        """Compare two labels layers; the image in the form is drawn under them."""
        truth, predicted = self._layer(self.truth.value), self._layer(self.predicted.value)
        image = self._layer(self.image.value)
        if truth is None or predicted is None or image is None or truth is predicted:
            raise UserError("choose an image, a layer with the truth and another one with the prediction")
        pixels = image.data[0] if image.multiscale else image.data
        labels = np.asarray(predicted.data)
        self._free()
        self.box.start(
            "Errors", errors_job, np.asarray(pixels), np.asarray(truth.data), labels, scores_of(predicted),
            done=lambda result: self._on_errors(result, predicted),
        )  # fmt: skip

    def _on_errors(self, result: Any, predicted: Labels) -> None:
        picture, errors, kinds = result
        self.errors_picture.show_png(picture)
        self.errors_table.setText(threshold_table(errors.score))
        remove_errors(self._viewer)
        self._viewer.add_layer(errors_layer(kinds, predicted))
        true, found, iou = (np.array(column) for column in zip(*errors.worst, strict=True))
        self.worst.show_columns({"true": true, "found": found, "IoU": iou})
        told = ", ".join(f"{len(errors.kinds[kind])} {kind}" for kind in KINDS)
        self.box.say(f"{told}; score {errors.score.dsb_score:.3f}.")

    def _jump_to_worst(self, row: dict[str, Any]) -> None:
        layer = self._layer(self.truth.value if row["true"] else self.predicted.value)
        if layer is None:
            return
        ys, xs = np.nonzero(np.asarray(layer.data) == (row["true"] or row["found"]))
        if len(ys):
            centre_on(self._viewer, *np.asarray(layer.data_to_world((ys.mean(), xs.mean()))).tolist())

    def _take_away(self) -> None:
        """Take the layers of Inspect away; those that a person changed only if they may go."""
        remove_errors(self._viewer)
        if self.steps is not None:
            self.steps.take_away(lambda names: keep_changed(self, names))
            self.steps = None

    def _free(self) -> None:
        if self.box.worker is not None:
            raise UserError("something is at work already: wait for it, or cancel it")

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except UserError as error:
            self.box.say(str(error), show_error)

    def closed(self) -> None:
        """Nobody listens to clicks any more, and the layers of Inspect go."""
        self.box.cancel()
        if self._on_click in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._on_click)
        self._take_away()
