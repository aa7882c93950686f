"""The Segment widget: an image layer in, a labels layer out."""

from __future__ import annotations

from functools import partial
from typing import Any

import napari.viewer
from napari.layers import Image
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtWidgets import QMessageBox, QTabWidget, QVBoxLayout, QWidget

from napari_deepretina._widgets.dock import keys_to_canvas
from napari_deepretina._widgets.document_view import restored
from napari_deepretina._widgets.documents import LeftBehind
from napari_deepretina._widgets.fitting import column, elide_lists, tab_in_order
from napari_deepretina._widgets.folder_box import FolderBox
from napari_deepretina._widgets.jobs import ModelCache, segment_job, stack_job
from napari_deepretina._widgets.own_labels import is_edited
from napari_deepretina._widgets.placing import (
    AXES,
    check_shown,
    columns_are_channels,
    full_data,
    layout_of_layer,
    split_channels,
    step_of,
)
from napari_deepretina._widgets.regions import WHOLE, regions_of_choice
from napari_deepretina._widgets.remedies import half_the_size, is_few, lower_score
from napari_deepretina._widgets.result_layers import Run, ask_about_edits, asked_of, own_layer, run_of, show
from napari_deepretina._widgets.ruler import Ruler
from napari_deepretina._widgets.running import Offer, RunBox
from napari_deepretina._widgets.segment_form import UPDATE, SegmentForm
from napari_deepretina._widgets.stack_box import ALL
from napari_deepretina._widgets.tips import SEGMENT, explain
from napari_deepretina.errors import UserError
from napari_deepretina.inference.planes import CHANNELS, PLANES, Layout, take_plane, take_stack

TROUBLE = ("ran out of memory", "took over", "removed meanwhile")
"""Words of notes that are warnings; the others tell what was done."""


class SegmentWidget(SegmentForm):
    """Finds the nuclei of the plane that is shown, off the GUI thread.

    Running again updates the labels layer that an earlier run made, or adds one, by choice. A layer
    that a person has edited is never replaced without asking.
    """

    title = "Segment nuclei"
    page = "segment"

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self._models = ModelCache()
        self._ruler = Ruler(napari_viewer, self._on_measured)
        self._run_when_measured = False
        self.measure.changed.connect(lambda _=None: self.measure_diameter())
        self._build()
        self._refresh_images()
        self._follow_selection()

    def _build(self) -> None:
        self.box = RunBox(self._viewer, "Choose an image and press Run.")
        self.box.asked.connect(self.run)
        self.left_behind = LeftBehind()
        self.left_behind.opened.connect(lambda path: restored(self._viewer, path))
        single, layout = column()
        layout.addLayout(self.form)
        layout.addWidget(self.stack)
        layout.addWidget(self.box)
        layout.addStretch()
        self.folder = FolderBox(
            self._viewer, self.settings, self._segment_opened, lambda: self.box.worker is not None
        )
        many, of_many = column()
        of_many.addWidget(self.folder)
        of_many.addStretch()
        self.tabs = QTabWidget()
        self.tabs.setObjectName("tabs")
        self.tabs.addTab(single, "This image")
        self.tabs.addTab(many, "Many images")
        self.tabs.setCornerWidget(self.help_button())
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 4, 0, 0)
        outer.addWidget(self.left_behind)
        outer.addWidget(self.tabs)
        elide_lists(self)
        tab_in_order(self)
        explain(self, SEGMENT)

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
        if asked is not None and not self._is_sure(layer, asked.along):
            return
        channel = self._chosen_channel()
        values = self.settings()
        job: Any = segment_job
        try:
            layout, step = layout_of_layer(layer), step_of(self._viewer, layer)
            values["regions"] = regions_of_choice(self._viewer, layer, self.region.value)
            if asked is None:
                check_shown(self._viewer, layer)
                taken: Any = take_plane(full_data(layer), layout, step=step, channel=channel)
                given = taken.image
            else:
                taken = take_stack(
                    full_data(layer), layout, step=step, along=asked.along, channel=channel,
                    letter=asked.letter,
                )  # fmt: skip
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
            cancelled=partial(self._on_result, run, finished=False),
            patch=partial(run.show_patch, self._viewer),
            over=run.over,
        )

    def _segment_opened(self, layer: Image) -> None:
        """Segment an image of a folder that was opened to be reviewed: all planes of a stack."""
        self.image.value = layer.name
        self.region.value = WHOLE
        if self.stack.isVisibleTo(self):
            self.stack.planes.value = ALL
        wanted = self.folder.channel.currentText().casefold()
        for text, number in self._offered:
            if wanted in (text.casefold(), str(number)):
                self.channel.value = number
        self.run()

    def _is_sure(self, layer: Image, along: int) -> bool:
        """Whether an axis holds planes; a person is asked where nothing says so, once for each layer."""
        layout = layout_of_layer(layer)
        if layout.unsure != along:
            return True
        answer = ask_about_axis(self, layer, layout)
        if answer:
            layer.metadata = {**layer.metadata, AXES: answer}
            self._refresh_channels()
        if answer == CHANNELS:
            self._say("Then choose the channel with the nuclei, and press Run again.", show_info)
        return answer == PLANES

    def _target(self, layer: Image, taken: Any, *, stack: bool) -> Any:
        """The layer that the run would update; None if it is to make a new one."""
        if self.result.value != UPDATE:
            return None
        return own_layer(self._viewer, layer, stack=stack, index=None if stack else taken.index)

    def cancel(self) -> None:
        """Stop after the step that is under way; what whole views found is kept."""
        self.box.cancel()

    def _on_result(self, run: Run, result: Any, *, finished: bool = True) -> None:
        layer = show(self._viewer, result, run)
        self.result.reset_choices()
        seconds = sum(result.seconds.values())
        about = result.provenance()
        device = ", ".join(about[k] for k in ("device", "precision") if k in about) or "no device"
        notes = list(about["notes"])
        noun = "nucleus" if result.count == 1 else "nuclei"
        message = f"{result.count} {noun} in {seconds:.1f} s on {device} → {layer.name}"
        if run.image_layer not in self._viewer.layers:
            notes.append(f"The image {run.image_name!r} was removed meanwhile; its labels are kept.")
        odd = [n for n in notes if any(word in n for word in TROUBLE)]
        lower = lower_score(result)
        few = finished and is_few(result, lower)
        if few:
            message = f"Only {message}" if result.count else message.replace("0 nuclei", "No nuclei", 1)
        told = "; ".join([message, *notes]) + (". If the image holds more, try one of these:" if few else "")
        self._say(told, show_warning if odd else show_info)
        offers = self._remedies(run.image_layer, result, lower) if few else []
        if run.image_layer in self._viewer.layers and columns_are_channels(layout_of_layer(run.image_layer)):
            offers.append(
                Offer("Show channels as layers", "napari shows the last axis as columns: lay each channel "
                      "out as a layer of its own", partial(split_channels, self._viewer, run.image_layer))
            )  # fmt: skip
        self.box.offer(offers)
        keys_to_canvas(self)

    # ---- remedies ----

    def _remedies(self, image: Image, result: Any, lower: tuple[float, int] | None) -> list[Offer]:
        """What to try when few nuclei were found, as buttons that do it."""
        if image not in self._viewer.layers:
            return []
        offers = []
        if lower is not None:
            score, count = lower
            offers.append(
                Offer(f"Score {score:g}: about {count}", "Run again and keep what the network is less sure "
                      "of, too", partial(self._again, "score", score))
            )  # fmt: skip
        if (small := half_the_size(result)) is not None:
            offers.append(
                Offer(f"Small nuclei: {small} px", "Run again with this diameter, which enlarges the image: "
                      "for nuclei that are too small to be found", partial(self._again, "diameter", small))
            )  # fmt: skip
        offers.append(
            Offer("Measure a nucleus", "Drag a line across one nucleus; then the image is looked at again at "
                  "the scale that this diameter asks for", partial(self.measure_diameter, then_run=True))
        )  # fmt: skip
        bright = bool(self.invert.value)
        offers.append(
            Offer("Look at it as it is" if bright else "Exchange dark and bright",
                  "Run again with the other brightness", partial(self._again, "invert", not bright))
        )  # fmt: skip
        others = [name for name in self.weights.choices if name != self.weights.value]
        if others:
            offers.append(
                Offer(f"Try {_short(others[0])}", "Run again with these weights",
                      partial(self._again, "weights", others[0]))
            )  # fmt: skip
        return offers

    def _again(self, name: str, value: Any) -> None:
        """Change a control and run again."""
        getattr(self, name).value = value
        self.run()

    def measure_diameter(self, *, then_run: bool = False) -> None:
        """Let a person drag a line across one nucleus, which sets the diameter."""
        layer = self._chosen_layer()
        if layer is None:
            self._say("There is no image layer to measure in: open an image first.", show_error)
            return
        try:
            check_shown(self._viewer, layer)
            self._ruler.begin(layer)
        except UserError as error:
            self._say(str(error), show_error)
            return
        self._run_when_measured = then_run
        self._say("Drag a line across one nucleus, from rim to rim.", show_info)

    def _on_measured(self, length: float) -> None:
        self.diameter.value = round(length, 1)
        self._say(f"The diameter is {length:.0f} pixels.", show_info)
        if self._run_when_measured:
            self.run()

    def _say(self, message: str, notify: Any) -> None:
        self.box.say(message, notify)

    def closed(self) -> None:
        """Nobody waits for the runs any more."""
        self.cancel()
        self.folder.cancel()
        self._ruler.leave()


def _short(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".safetensors")


def ask_about_axis(parent: QWidget, layer: Image, layout: Layout) -> str:
    """What a short axis holds, which nothing says: `CHANNELS`, `PLANES`, or "" for nothing decided."""
    count = layout.shape[layout.unsure or 0]
    box = QMessageBox(parent)
    box.setObjectName("ask_axis")
    box.setWindowTitle("Channels or planes?")
    box.setText(f"The first axis of {layer.name!r} has {count} positions. What are they?")
    box.setInformativeText("Neither the file nor the layer says so. The answer holds for this layer.")
    planes = box.addButton("Planes (z or time)", QMessageBox.ButtonRole.AcceptRole)
    channels = box.addButton("Channels", QMessageBox.ButtonRole.AcceptRole)
    box.addButton(QMessageBox.StandardButton.Cancel)
    box.exec()
    if box.clickedButton() is planes:
        return PLANES
    return CHANNELS if box.clickedButton() is channels else ""
