"""The form of Segment: what is looked at, with which weights and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import napari.viewer
from magicgui.widgets import CheckBox, ComboBox, FloatSlider, FloatSpinBox, PushButton
from napari.layers import Image
from qtpy.QtWidgets import QFileDialog, QFormLayout, QLabel, QMessageBox

from napari_deepretina._widgets import presets
from napari_deepretina._widgets.dock import Dock
from napari_deepretina._widgets.fitting import row
from napari_deepretina._widgets.memory import Remembered, forget, recall
from napari_deepretina._widgets.placing import layout_of_layer
from napari_deepretina._widgets.regions import WHOLE, region_choices
from napari_deepretina._widgets.result_layers import own_layer
from napari_deepretina._widgets.sliders import TITLES
from napari_deepretina._widgets.stack_box import StackBox
from napari_deepretina.documented import meanings
from napari_deepretina.errors import UserError
from napari_deepretina.model.precision import CHOICES as PRECISIONS
from napari_deepretina.model.weights import DEFAULT, advised_score, available, specialist_of
from napari_deepretina.postprocess import PostprocessSettings

AUTOMATIC, AS_SHOWN, PLAIN = "automatic", "as displayed", "1 to 99.8 % of all values"
STAINS = {"haematoxylin alone": "haematoxylin", "haematoxylin and brown": "haematoxylin+brown"}
UPDATE, NEW = "update my layer", "make a new layer"
VIEWS = ["none", "flips", "flips-rotations", "deep-retina"]
DEVICES = ["auto", "cpu", "cuda", "cuda:1", "mps"]
"""Without asking torch, whose import takes seconds: what is not there is reported when it is used."""
REMEMBERED = (
    "weights",
    "device",
    "precision",
    "views",
    "score",
    "diameter",
    "intensity",
    "specialist",
    "invert",
)


class SegmentForm(Dock):
    """Controls that follow the viewer's layers, and come back as they were left."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self._defaults: dict[str, Any] = {}
        self._offered: list[tuple[str, int]] = []
        self._own_score = False
        self._make_controls()
        self.stack = StackBox()
        self.form = self._laid_out()
        self._remembered = Remembered(self, "segment", {name: getattr(self, name) for name in REMEMBERED})
        self._take_advice()
        self.use_defaults(presets.load_default())
        chosen = recall("segment").get("weights")
        if isinstance(chosen, str) and Path(chosen).is_file():
            self.use_weights(chosen)
        asked = self._own_score
        self._remembered.restore()
        self._own_score = asked or self._score() != advised_score(self.weights.value)
        self.image.changed.connect(self._refresh_channels)
        self.channel.changed.connect(self._refresh_planes)
        self.weights.changed.connect(self._take_advice)
        self.weights_file.changed.connect(self._choose_weights)
        events = napari_viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.connect(self._refresh_images)
        napari_viewer.layers.selection.events.active.connect(self._follow_selection)

    def _make_controls(self) -> None:
        score = PostprocessSettings.model_fields["score"]
        self.image = ComboBox(label="image", nullable=False, choices=self._image_choices)
        self.region = ComboBox(label="look in", choices=lambda _: region_choices(self._viewer))
        self.channel = ComboBox(label="channel", choices=[("as shown", -1)])
        self.weights = ComboBox(label="weights", choices=list(available()) or [DEFAULT])
        self.weights_file = PushButton(text="from file…", label="")
        self.device = ComboBox(label="device", choices=DEVICES)
        self.precision = ComboBox(label="precision", choices=list(PRECISIONS))
        self.views = ComboBox(label="views", choices=VIEWS)
        self.views.tooltip = (
            "None looks once. The others look again at the image flipped, turned or scaled, and keep what "
            "enough views agree on: slower, a little surer."
        )
        self.score = FloatSlider(label="lowest score", min=0.05, max=0.95, step=0.01, value=score.default)
        self.score.changed.connect(self._choose_score)
        self.diameter = FloatSpinBox(label="diameter, px", min=0, max=2000, step=1, value=0)
        self.diameter.tooltip = (
            "Expected diameter of a nucleus in pixels. 0 keeps the image's scale, but enlarges small images."
        )
        self.measure = PushButton(text="measure", label="")
        self.intensity = ComboBox(label="intensities", choices=[AUTOMATIC, AS_SHOWN, PLAIN, *STAINS])
        self.intensity.tooltip = (
            "Which values are looked at. Automatic leaves empty parts, no-data values and glare out, and "
            "looks for the channel with the nuclei where colours lie on a dark ground, or for their stain on "
            "brown slides; as displayed takes the layer's contrast limits."
        )
        self.specialist = ComboBox(label="tissue network", choices=["auto", "always", "never"])
        self.specialist.tooltip = (
            "Some weights come with a second network for stained tissue and unstained cells. Auto asks it "
            "where colours lie on a bright ground, and where cells are darker and brighter than a grey one."
        )
        self.invert = CheckBox(text="exchange dark and bright", value=False)
        self.invert.tooltip = "For dark nuclei on bright ground that the weights do not find as they are"
        self.result = ComboBox(label="result", choices=self._result_choices)
        self.effects = QLabel("")
        self.effects.setObjectName("effects")
        self.effects.setWordWrap(True)
        self.restore_defaults = PushButton(text="Restore defaults")
        self.restore_defaults.changed.connect(lambda _=None: self.forget_defaults())
        self.factory = PushButton(text="Factory settings…")
        self.factory.changed.connect(lambda _=None: self._ask_to_forget())

    def _laid_out(self) -> QFormLayout:
        form = QFormLayout()
        rows: list[tuple[str, Any]] = [
            ("image", "image"), ("look in", "region"), ("channel", "channel"),
            ("weights", ("weights", "weights_file")), ("device, precision", ("device", "precision")),
            ("views", "views"), ("lowest score", "score"), ("diameter, px", ("diameter", "measure")),
            ("intensities", "intensity"), ("tissue network", ("specialist", "invert")), ("result", "result"),
        ]  # fmt: skip
        for text, names in rows:
            together = (names,) if isinstance(names, str) else names
            parts = []
            for name in together:
                control = getattr(self, name)
                control.native.setObjectName(name)
                parts.append(control.native)
            form.addRow(text, parts[0] if len(parts) == 1 else row(parts))
        for name in ("restore_defaults", "factory"):
            getattr(self, name).native.setObjectName(name)
        form.addRow("", self.effects)
        form.addRow("", row([self.restore_defaults.native, self.factory.native]))
        self.diameter.native.setSpecialValueText("automatic")
        return form

    # ---- what may be chosen ----

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
            if isinstance(layer, Image):
                layer.events.data.disconnect(self._refresh_channels)
                layer.events.data.connect(self._refresh_channels)
        self.image.reset_choices()
        self.region.reset_choices()
        self.result.reset_choices()
        self._refresh_channels()

    def _follow_selection(self, event: Any = None) -> None:
        active = self._viewer.layers.selection.active
        if isinstance(active, Image) and active.name in self.image.choices:
            self.image.value = active.name

    def _refresh_channels(self, _: Any = None) -> None:
        """Offer the channels of the image that is chosen; a channel stays chosen only among its own."""
        layer = self._chosen_layer()
        if layer is None:
            return
        try:
            choices = layout_of_layer(layer).channel_choices()
        except UserError:  # what is wrong with the image is reported by Run
            choices = [("as shown", None)]
        # magicgui takes None for "nothing chosen", so the image as it is goes by -1
        offered = [(text, -1 if number is None else number) for text, number in choices]
        if offered != self._offered:
            self._offered = offered
            self.channel.choices = []  # magicgui would keep the order of those that stay
            self.channel.choices = offered
            self.channel.value = offered[0][1]
        self._refresh_planes()

    def _refresh_planes(self, _: Any = None) -> None:
        layer = self._chosen_layer()
        if layer is None:
            return
        try:
            self.stack.fit(layout_of_layer(layer), layer.axis_labels, channel=self._chosen_channel())
        except UserError:
            self.stack.setVisible(False)

    def _chosen_channel(self) -> int | None:
        return None if self.channel.value in (None, -1) else int(self.channel.value)

    def _chosen_layer(self) -> Image | None:
        name = self.image.value
        return next((x for x in self._viewer.layers if x.name == name and isinstance(x, Image)), None)

    # ---- weights ----

    def _take_advice(self, _: Any = None) -> None:
        """Show the score threshold that the weights advise, and whether they have a network for tissue."""
        advice, special = advised_score(self.weights.value), specialist_of(self.weights.value)
        if advice is not None:  # of what is wrong Run will tell
            self.score.value = advice
        self._own_score = advice is None
        self.specialist.enabled = special is not None
        other = advised_score(special) if special else None
        tip = meanings(PostprocessSettings)["score"].rstrip(".") + "."
        if other not in (None, advice):
            tip += f" Left alone, it is {other:g} for stained tissue and unstained cells."
        self.score.tooltip = tip

    def _choose_score(self, _: Any = None) -> None:
        """From now on for every network; left alone, each has the one that it advises."""
        self._own_score = True

    def _score(self) -> float:
        return round(float(self.score.value), 4)

    def _choose_weights(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Weights", "", "Weights (*.safetensors *.h5)")
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

    # ---- values ----

    def settings(self) -> dict[str, Any]:
        """The form's values, as `SegmentSettings` takes them; where to look is decided when a run begins."""
        return (
            self._defaults
            | ({"score": self._score()} if self._own_score else {})
            | {
                "weights": self.weights.value,
                "device": self.device.value,
                "precision": self.precision.value,
                "tta": self.views.value,
                "diameter": float(self.diameter.value) or None,
                "intensity": self._asked_intensity(),
                "specialist": self.specialist.value,
                "invert": bool(self.invert.value),
            }
        )

    def _asked_intensity(self) -> str:
        layer = self._chosen_layer()
        if self.intensity.value == AS_SHOWN and layer is not None and not layer.rgb:
            low, high = layer.contrast_limits
            return f"{float(low)!r}:{float(high)!r}" if high > low else "auto"
        return {PLAIN: "plain", **STAINS}.get(self.intensity.value, "auto")

    def use_defaults(self, values: dict[str, Any]) -> None:
        """Take post-processing settings for all runs to come; the form names those that it does not show."""
        self._defaults = {k: v for k, v in values.items() if k != "score"}
        if "score" in values:
            self.score.value = values["score"]
            self._own_score = True
        told = in_words(self._defaults)
        self.effects.setText(f"Also in effect: {told}" if told else "")
        self.effects.setVisible(bool(told))
        self.restore_defaults.native.setVisible(bool(told))

    def forget_defaults(self) -> None:
        """Post-processing as Segment does it by itself, from now on."""
        presets.forget_default()
        self.use_defaults({})

    def _ask_to_forget(self) -> None:
        """Everything as on the first day, if a person really wants that."""
        answer = QMessageBox.question(
            self,
            "Factory settings",
            "Forget the settings, folders and open windows that Deep Retina remembers?\n"
            "Presets, weights and results stay.",
        )
        if answer == QMessageBox.StandardButton.Yes:
            self.use_factory_settings()

    def use_factory_settings(self) -> None:
        """Everything as on the first day; presets, weights and results stay."""
        self.forget_defaults()
        self._remembered.show(self._remembered.first)
        self._take_advice()
        self.region.value = WHOLE
        forget()


def in_words(settings: dict[str, Any]) -> str:
    """Settings of post-processing that differ from the usual ones, in words."""
    usual = PostprocessSettings().model_dump()
    told = []
    for name, value in settings.items():
        if name in usual and value != usual[name]:
            title = TITLES.get(name, name.replace("_", " "))
            plain, unit = (title.removesuffix(", px"), " px") if title.endswith(", px") else (title, "")
            told.append(plain if value is True else f"{plain} {value}{unit}")
    return ", ".join(told)
