"""The Segment widget: an image layer in, a labels layer out."""

from __future__ import annotations

from functools import partial
from typing import Any

import napari.viewer
from magicgui.widgets import CheckBox, ComboBox, FloatSlider, FloatSpinBox, PushButton
from napari.layers import Image
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_deepretina._widgets import presets
from napari_deepretina._widgets.document_view import restored
from napari_deepretina._widgets.documents import LeftBehind
from napari_deepretina._widgets.fitting import elide_lists, scrolled
from napari_deepretina._widgets.folder_box import FolderBox
from napari_deepretina._widgets.jobs import ModelCache, segment_job, stack_job
from napari_deepretina._widgets.own_labels import is_edited
from napari_deepretina._widgets.placing import check_shown, step_of
from napari_deepretina._widgets.result_layers import Run, ask_about_edits, asked_of, own_layer, run_of, show
from napari_deepretina._widgets.running import RunBox
from napari_deepretina._widgets.stack_box import StackBox
from napari_deepretina._widgets.tips import SEGMENT, explain
from napari_deepretina.errors import UserError
from napari_deepretina.inference.planes import channel_choices, take_plane, take_stack
from napari_deepretina.model.weights import DEFAULT, available
from napari_deepretina.postprocess import PostprocessSettings

TROUBLE = ("ran out of memory", "took over", "removed meanwhile")
"""Words of notes that are warnings; the others tell what was done."""
AUTOMATIC, AS_SHOWN, PLAIN = "automatic", "as displayed", "1 to 99.8 % of all values"
UPDATE, NEW = "update my layer", "make a new layer"
VIEWS = ["none", "flips", "flips-rotations", "deep-retina"]


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
        self._build_reading()
        self.result = ComboBox(label="result", choices=self._result_choices)
        controls = {
            "image": self.image,
            "channel": self.channel,
            "weights": self.weights,
            "weights_file": self.weights_file,
            "device": self.device,
            "views": self.views,
            "score": self.score,
            "diameter": self.diameter,
            "intensity": self.intensity,
            "invert": self.invert,
            "result": self.result,
        }
        form = QFormLayout()
        for name, control in controls.items():
            control.native.setObjectName(name)
            form.addRow("" if isinstance(control, CheckBox) else control.label, control.native)
        self.diameter.native.setSpecialValueText("automatic")
        self.stack = StackBox()
        self.image.changed.connect(self._refresh_channels)
        self.channel.changed.connect(self._refresh_planes)
        self.weights.changed.connect(self._take_advice)
        self.weights_file.changed.connect(self._choose_weights)
        self.box = RunBox(self._viewer, "Choose an image and press Run.")
        self.box.asked.connect(self.run)
        self.left_behind = LeftBehind()
        self.left_behind.opened.connect(lambda path: restored(self._viewer, path))
        layout = scrolled(self)
        layout.addWidget(self.left_behind)
        layout.addLayout(form)
        layout.addWidget(self.stack)
        layout.addWidget(self.box)
        layout.addWidget(self._many_images())
        layout.addStretch()
        elide_lists(self)
        explain(self, SEGMENT)
        self._take_advice()
        self.use_defaults(presets.load_default())

    def _many_images(self) -> QCollapsible:
        """The part for folders."""
        self.many = QCollapsible("Many images")
        self.many.setObjectName("many_images")
        self.folder = FolderBox(self._viewer, self.settings)
        self.many.addWidget(self.folder)
        return self.many

    def _build_reading(self) -> None:
        """Controls that say how values are read."""
        self.intensity = ComboBox(label="intensities", choices=[AUTOMATIC, AS_SHOWN, PLAIN])
        self.intensity.tooltip = (
            "Which values are looked at. Automatic leaves empty parts, no-data values and glare out, and "
            "looks for the channel with the nuclei where colours lie on a dark ground; as displayed takes "
            "the layer's contrast limits."
        )
        self.invert = CheckBox(text="dark and bright change places", value=False)
        self.invert.tooltip = "For dark nuclei on bright ground that the weights do not find as they are."

    def _result_choices(self, _: Any = None) -> list[tuple[str, str]]:
        """To update a layer, by its name, or to make a new one."""
        layer = self._chosen_layer() if hasattr(self, "stack") else None
        found = None
        if layer is not None:
            stack = self.stack.asked() is not None
            found = own_layer(self._viewer, layer, stack=stack)
        told = UPDATE if found is None else f"update {found.name!r}"
        return [(told, UPDATE), (NEW, NEW)]

    def _image_choices(self, _: Any = None) -> list[str]:
        return [layer.name for layer in self._viewer.layers if isinstance(layer, Image)]

    def _refresh_images(self, event: Any = None) -> None:
        for layer in self._viewer.layers:
            layer.events.name.disconnect(self._refresh_images)
            layer.events.name.connect(self._refresh_images)
        self.image.reset_choices()
        self.result.reset_choices()
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
        self._refresh_planes()

    def _refresh_planes(self, _: Any = None) -> None:
        layer = self._chosen_layer()
        if layer is not None:
            shape = _full_data(layer).shape
            self.stack.fit(shape, layer.axis_labels, rgb=layer.rgb, channel=self._chosen_channel())

    def _chosen_channel(self) -> int | None:
        return None if self.channel.value in (None, -1) else int(self.channel.value)

    def _take_advice(self, _: Any = None) -> None:
        """Show the score threshold that the weights' own validation found best."""
        from napari_deepretina.model.weights import advised_score

        if (advice := advised_score(self.weights.value)) is not None:  # of what is wrong Run will tell
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
        asked = self.stack.asked()
        channel = self._chosen_channel()
        data, step = _full_data(layer), step_of(self._viewer, layer)
        values = self.settings()
        job: Any = segment_job
        try:
            if asked is None:
                check_shown(self._viewer, layer, data.shape)
                taken: Any = take_plane(data, rgb=layer.rgb, step=step, channel=channel)
                given = taken.image
            else:
                taken = take_stack(
                    data, rgb=layer.rgb, step=step, along=asked.along, channel=channel, letter=asked.letter
                )
                given, job = taken.picture, stack_job
                values |= {"planes": asked.planes, "link": asked.link}
        except UserError as error:
            self._say(str(error), show_error)
            return
        target = self._target(layer, taken, stack=asked is not None)
        edited = target is not None and is_edited(target)
        if target is not None and edited:
            answer = ask_about_edits(self, target)
            if answer == "cancel":
                return
            target = None if answer == "new" else target
        run = run_of(layer, taken, asked_of(layer, taken, channel, asked.planes if asked else "all"))
        run.target, run.replace_edited = target, edited and target is not None
        self.box.start(
            f"Segment {layer.name}",
            job,
            given,
            values,
            self._models,
            done=partial(self._on_result, run),
            cancelled=partial(self._on_result, run),
            patch=partial(run.show_patch, self._viewer),
            over=run.over,
        )

    def _target(self, layer: Image, taken: Any, *, stack: bool) -> Any:
        """The layer that the run would update; None if it is to make a new one."""
        if self.result.value != UPDATE:
            return None
        return own_layer(self._viewer, layer, stack=stack, index=None if stack else taken.index)

    def settings(self) -> dict[str, Any]:
        """The form's values, as `SegmentSettings` takes them."""
        return self._defaults | {
            "weights": self.weights.value,
            "device": self.device.value,
            "tta": self.views.value,
            "score": round(float(self.score.value), 4),
            "diameter": float(self.diameter.value) or None,
            "intensity": self._asked_intensity(),
            "invert": bool(self.invert.value),
        }

    def _asked_intensity(self) -> str:
        layer = self._chosen_layer()
        if self.intensity.value == AS_SHOWN and layer is not None and not layer.rgb:
            low, high = layer.contrast_limits
            return f"{float(low)!r}:{float(high)!r}" if high > low else "auto"
        return "plain" if self.intensity.value == PLAIN else "auto"

    def use_defaults(self, values: dict[str, Any]) -> None:
        """Take post-processing settings for all runs to come; the form shows those that it has."""
        self._defaults = {k: v for k, v in values.items() if k != "score"}
        if "score" in values:
            self.score.value = values["score"]

    def cancel(self) -> None:
        """Stop after the step that is under way; what whole views found is kept."""
        self.box.cancel()

    def _on_result(self, run: Run, result: Any) -> None:
        layer = show(self._viewer, result, run)
        self.result.reset_choices()
        seconds = sum(result.seconds.values())
        told = result.provenance()
        device, notes = told.get("device", "no device"), list(told["notes"])
        message = f"{result.count} nuclei in {seconds:.1f} s on {device} → {layer.name}"
        if run.image_layer not in self._viewer.layers:
            notes.append(f"The image {run.image_name!r} was removed meanwhile; its labels are kept.")
        odd = [n for n in notes if any(word in n for word in TROUBLE)]
        self._say("; ".join([message, *notes]), show_warning if odd else show_info)

    def _say(self, message: str, notify: Any) -> None:
        self.box.say(message, notify)

    def event(self, event: QEvent) -> bool:
        """A closed dock only loses its parent: then nobody waits for the run any more."""
        if event.type() == QEvent.ParentChange and self.parent() is None:
            self.cancel()
            self.folder.cancel()
        return super().event(event)


def _full_data(layer: Image) -> Any:
    return layer.data[0] if layer.multiscale else layer.data


def _device_choices() -> list[str]:
    """Without asking torch, whose import takes seconds: what is not there is told by Run."""
    return ["auto", "cpu", "cuda", "mps"]
