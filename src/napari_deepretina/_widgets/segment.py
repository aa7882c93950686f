"""The Segment widget: an image layer in, a labels layer out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import napari.viewer
import numpy as np
from magicgui.widgets import ComboBox, FloatSlider, FloatSpinBox, PushButton
from napari.layers import Image, Labels
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QMessageBox,
    QVBoxLayout,
    QWidget,
)

from napari_deepretina._widgets import presets
from napari_deepretina._widgets.jobs import ModelCache, segment_job
from napari_deepretina._widgets.own_labels import RAW, Remembered, is_edited, is_ours, sign
from napari_deepretina._widgets.placing import bright_colours, placement
from napari_deepretina._widgets.running import RunBox
from napari_deepretina._widgets.so_far import SoFar
from napari_deepretina.errors import UserError
from napari_deepretina.inference.planes import channel_choices, take_plane
from napari_deepretina.model.weights import DEFAULT, available
from napari_deepretina.postprocess import PostprocessSettings

Answer = Literal["replace", "new", "cancel"]
UPDATE, NEW = "update my layer", "make a new layer"
VIEWS = ["none", "flips", "flips-rotations", "deep-retina"]


@dataclass
class _Run:
    """What must be known when a run ends, whatever happened to the viewer meanwhile."""

    image_name: str
    image_layer: Image
    layer_kwargs: dict[str, Any]
    index: tuple[int | None, ...]
    target: Labels | None
    replace_edited: bool
    preview: SoFar | None = None


class SegmentWidget(QWidget):
    """Finds the nuclei of the plane that is shown, off the GUI thread.

    Running again updates the labels layer that an earlier run made, or adds one, by choice. A layer
    that a person has edited is never replaced without asking.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._models = ModelCache()
        self._defaults: dict[str, Any] = {}
        self._build()
        events = napari_viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.connect(self._refresh_images)
        napari_viewer.layers.selection.events.active.connect(self._follow_selection)
        self._refresh_images()
        self._follow_selection()

    # ---- form ----

    def _build(self) -> None:
        score = PostprocessSettings.model_fields["score"]
        self.image = ComboBox(label="image", nullable=False, choices=self._image_choices)
        self.channel = ComboBox(label="channel", choices=[("as shown", -1)])
        self.weights = ComboBox(label="weights", choices=list(available()) or [DEFAULT])
        self.weights_file = PushButton(text="weights from file…", label="")
        self.device = ComboBox(label="device", choices=_device_choices())
        self.views = ComboBox(label="views", choices=VIEWS)
        self.views.tooltip = (
            "none looks once. The others look again at the image flipped, turned or scaled, and keep what "
            "enough views agree on: slower, a little surer."
        )
        self.score = FloatSlider(label="score", min=0.05, max=0.95, step=0.01, value=score.default)
        self.score.tooltip = score.description
        self.diameter = FloatSpinBox(label="diameter", min=0, max=2000, step=1, value=0)
        self.diameter.tooltip = (
            "Expected nucleus diameter in pixels. 0 keeps the image's scale, but enlarges small images."
        )
        self.result = ComboBox(label="result", choices=[UPDATE, NEW])
        controls = {
            "image": self.image,
            "channel": self.channel,
            "weights": self.weights,
            "weights_file": self.weights_file,
            "device": self.device,
            "views": self.views,
            "score": self.score,
            "diameter": self.diameter,
            "result": self.result,
        }
        form = QFormLayout()
        for name, control in controls.items():
            control.native.setObjectName(name)
            form.addRow(control.label, control.native)
        self.diameter.native.setSpecialValueText("automatic")
        self.image.changed.connect(self._refresh_channels)
        self.weights.changed.connect(self._take_advice)
        self.weights_file.changed.connect(self._choose_weights)
        self.box = RunBox(self._viewer, "Choose an image and press Run.")
        self.box.asked.connect(self.run)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.box)
        layout.addStretch()
        self._take_advice()
        self.use_defaults(presets.load_default())

    def _image_choices(self, _: Any = None) -> list[str]:
        return [layer.name for layer in self._viewer.layers if isinstance(layer, Image)]

    def _refresh_images(self, event: Any = None) -> None:
        for layer in self._viewer.layers:
            layer.events.name.disconnect(self._refresh_images)
            layer.events.name.connect(self._refresh_images)
        self.image.reset_choices()
        self._refresh_channels()

    def _follow_selection(self, event: Any = None) -> None:
        active = self._viewer.layers.selection.active
        if isinstance(active, Image) and active.name in self.image.choices:
            self.image.value = active.name

    def _refresh_channels(self, _: Any = None) -> None:
        layer = self._chosen_layer()
        if layer is None:
            return
        choices = channel_choices(_full_data(layer).shape, rgb=layer.rgb)
        # magicgui takes None for "nothing chosen", so the image as it is goes by -1
        numbered = [(text, -1 if number is None else number) for text, number in choices]
        if tuple(n for _, n in numbered) != tuple(self.channel.choices):
            self.channel.choices = numbered

    def _take_advice(self, _: Any = None) -> None:
        """Show the score threshold that the weights' own validation found best."""
        from napari_deepretina.model.weights import find, read_info

        try:
            advice = read_info(find(self.weights.value)).postprocess.get("score")
        except UserError:
            return  # Run will say what is wrong
        if advice is not None:
            self.score.value = advice

    def _choose_weights(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Weights", "", "Weights (*.safetensors)")
        if path:
            self.use_weights(path)

    def use_weights(self, name_or_path: str) -> None:
        """Choose weights by name or file; files join the list."""
        if name_or_path not in self.weights.choices:
            self.weights.choices = [*self.weights.choices, name_or_path]
        self.weights.value = name_or_path

    def refresh_weights(self) -> None:
        """Offer weights that were added meanwhile."""
        new = [name for name in available() if name not in self.weights.choices]
        self.weights.choices = [*self.weights.choices, *new]

    def _chosen_layer(self) -> Image | None:
        name = self.image.value
        return next((x for x in self._viewer.layers if x.name == name and isinstance(x, Image)), None)

    # ---- run ----

    def run(self) -> None:
        """Segment the chosen layer's plane that is shown; returns at once."""
        layer = self._chosen_layer()
        if layer is None:
            self._say(
                "There is no image layer: drag an image onto napari, or open one with File ▸ Open "
                "Sample ▸ Deep Retina.",
                show_error,
            )
            return
        target = self._own_layer(layer) if self.result.value == UPDATE else None
        edited = target is not None and is_edited(target)
        if target is not None and edited:
            answer = self._ask_about_edits(target.name)
            if answer == "cancel":
                return
            target = None if answer == "new" else target
        channel = None if self.channel.value in (None, -1) else int(self.channel.value)
        try:
            plane = take_plane(
                _full_data(layer), rgb=layer.rgb, step=_step_of(self._viewer, layer), channel=channel
            )
        except UserError as error:
            self._say(str(error), show_error)
            return
        run = _Run(
            layer.name,
            layer,
            placement(layer, plane.axes),
            plane.index,
            target,
            edited and target is not None,
        )
        self.box.start(
            f"Segment {layer.name}",
            segment_job,
            plane.image,
            self.settings(),
            self._models,
            done=partial(self._on_result, run),
            cancelled=partial(self._on_result, run),
            over=partial(self._take_away, run),
            patch=partial(self._on_patch, run),
        )

    def settings(self) -> dict[str, Any]:
        """The form's values, as `SegmentSettings` takes them."""
        return self._defaults | {
            "weights": self.weights.value,
            "device": self.device.value,
            "tta": self.views.value,
            "score": round(float(self.score.value), 4),
            "diameter": float(self.diameter.value) or None,
        }

    def use_defaults(self, values: dict[str, Any]) -> None:
        """Take post-processing settings for all runs to come; the form shows those that it has."""
        self._defaults = {k: v for k, v in values.items() if k != "score"}
        if "score" in values:
            self.score.value = values["score"]

    def cancel(self) -> None:
        """Stop after the step that is under way; what whole views found is kept."""
        self.box.cancel()

    def _on_patch(self, run: _Run, patch: Any) -> None:
        """What one tile holds, in a layer only to look at; it goes when the run is over."""
        if run.preview is None:
            run.preview = SoFar(self._viewer, patch.shape, f"{run.image_name} so far", run.layer_kwargs)
        run.preview.show(patch)

    def _take_away(self, run: _Run) -> None:
        if run.preview is not None:
            run.preview.remove()

    def _on_result(self, run: _Run, result: Any) -> None:
        layer = self._show(result, run)
        seconds = sum(result.seconds.values())
        device = result.provenance()["device"]
        message = f"{len(result.instances)} nuclei in {seconds:.1f} s on {device} → {layer.name}"
        notes = list(result.prediction.notes)
        if run.image_layer not in self._viewer.layers:
            notes.append(f"The image {run.image_name!r} was removed meanwhile; its labels are kept.")
        self._say(". ".join([message, *notes]), show_warning if notes else show_info)

    # ---- layers ----

    def _own_layer(self, image: Image) -> Labels | None:
        """The newest layer that we made from this image, if it still fits."""
        ours = [
            layer for layer in self._viewer.layers if isinstance(layer, Labels) and is_ours(layer, image.name)
        ]
        return ours[-1] if ours else None

    def _show(self, result: Any, run: _Run) -> Labels:
        """Put a result into the run's layer, or into a new one if that has gone or was edited."""
        details = result.provenance() | {"index": list(run.index)}
        features = {k: np.concatenate([_nothing(v), v]) for k, v in result.features().items()}
        metadata = sign(result.labels, run.image_name, details)
        chosen = {k: getattr(result.settings, k) for k in PostprocessSettings.model_fields}
        metadata[RAW] = Remembered(
            result.prediction.raw,
            result.labels.copy(),
            result.instances.sources,
            PostprocessSettings(**chosen),
        )
        target = run.target
        usable = (
            target is not None
            and target in self._viewer.layers
            and target.data.shape == result.labels.shape
            and (run.replace_edited or not is_edited(target))
        )
        if target is not None and usable:
            target.data = result.labels.copy()
            target.features = features
            target.metadata = {**target.metadata, **metadata}
            return target
        layer = Labels(
            result.labels.copy(),
            name=f"{run.image_name} nuclei",
            features=features,
            metadata=metadata,
            colormap=bright_colours(),
            opacity=1.0,
            **run.layer_kwargs,
        )
        layer.contour = 2
        self._viewer.add_layer(layer)
        return layer

    def _ask_about_edits(self, name: str) -> Answer:
        """A person edited the layer that would be updated."""
        box = QMessageBox(self)
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

    def _say(self, message: str, notify: Any) -> None:
        self.box.say(message, notify)

    def event(self, event: QEvent) -> bool:
        """A closed dock only loses its parent: then nobody waits for the run any more."""
        if event.type() == QEvent.ParentChange and self.parent() is None:
            self.cancel()
        return super().event(event)


def _nothing(column: np.ndarray) -> np.ndarray:
    """One row for the background, which napari's table expects at label 0."""
    empty: Any = "" if column.dtype == object else np.nan if column.dtype.kind == "f" else 0
    return np.array([empty], dtype=column.dtype)


def _full_data(layer: Image) -> Any:
    return layer.data[0] if layer.multiscale else layer.data


def _step_of(viewer: Any, layer: Image) -> tuple[int, ...]:
    """The viewer's position, for the layer's own axes, in its pixels."""
    world = np.asarray(viewer.dims.point)[-layer.ndim :]
    return tuple(round(v) for v in np.asarray(layer.world_to_data(world)))


def _device_choices() -> list[str]:
    """Without asking torch, whose import takes seconds: what is not there is told by Run."""
    return ["auto", "cpu", "cuda", "mps"]
