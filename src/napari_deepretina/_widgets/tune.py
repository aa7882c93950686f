"""The Tune widget: labels that follow the sliders, from detections that the network made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import napari.viewer
import numpy as np
from magicgui.widgets import ComboBox, PushButton
from napari.layers import Labels
from napari.utils.notifications import show_error
from qtpy.QtWidgets import (
    QApplication,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QPushButton,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_deepretina._widgets import exporting, presets
from napari_deepretina._widgets.dock import Dock
from napari_deepretina._widgets.document_view import DocumentView, restored, view_of
from napari_deepretina._widgets.documents import LeftBehind
from napari_deepretina._widgets.fitting import ScrollArea, elide_lists, line, row, tab_in_order
from napari_deepretina._widgets.hub import hub
from napari_deepretina._widgets.jobs import Best, sweep_job
from napari_deepretina._widgets.measure_box import MeasureBox
from napari_deepretina._widgets.placing import step_of
from napari_deepretina._widgets.preset_box import NO_PRESET, PresetBox
from napari_deepretina._widgets.review import ReviewPanel
from napari_deepretina._widgets.running import RunBox
from napari_deepretina._widgets.segment import SegmentWidget
from napari_deepretina._widgets.sliders import sliders
from napari_deepretina._widgets.tips import TUNE, explain
from napari_deepretina.errors import UserError
from napari_deepretina.evaluation import match
from napari_deepretina.evaluation.scores import score_image
from napari_deepretina.evaluation.sweep import GRID, VIEWS_GRID
from napari_deepretina.postprocess import PostprocessSettings
from napari_deepretina.postprocess.pipeline import Postprocessor

NO_TRUTH = "–"
MOVE = "Move a slider: the labels follow."
NOTHING = "There is nothing to tune yet: run Segment nuclei first."


class TuneWidget(Dock):
    """Sliders over the raw detections of a layer that Segment made; the network does not run again."""

    title = "Tune"
    page = "tune"

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self._busy = False
        self._max_lost = PostprocessSettings().max_lost
        self._followed: DocumentView | None = None
        self.box = RunBox(napari_viewer, MOVE, name="cancel", only_cancels=True)
        self.review = ReviewPanel(napari_viewer, self.box)
        self.measure = MeasureBox(napari_viewer)
        self.measure.ranged.connect(self.review.show_only)
        self._build()
        hub.shown.connect(self._refresh_layers)
        napari_viewer.dims.events.current_step.connect(self._on_plane)
        events = napari_viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.connect(self._refresh_layers)
        self._enable(None)
        self._refresh_layers()

    # ---- form ----

    def _build(self) -> None:
        self.nuclei = ComboBox(label="nuclei", nullable=False, choices=self._tunable)
        self.truth = ComboBox(label="truth", choices=self._truths)
        self.presets = PresetBox(self.settings)
        self.preset = self.presets.choice
        self.controls = sliders()
        form = QFormLayout()
        form.addRow("nuclei", self.nuclei.native)
        form.addRow("preset", self.presets)
        for name, control in self.controls.items():
            control.changed.connect(lambda _=None, name=name: self.retune(hand=name))
            form.addRow(control.label, control.native)
        self.find_best_button = QPushButton("Find best")
        self.find_best_button.setObjectName("find_best")
        self.find_best_button.clicked.connect(self.find_best)
        form.addRow("truth", row([self.truth.native, self.find_best_button]))
        self.count_label, self.score_label = line("count"), line("live_score", lines=2)
        form.insertRow(2, "", self.count_label)
        form.addRow("", self.score_label)
        buttons = QHBoxLayout()
        for name, text, action in (
            ("reset", "Reset", self.reset),
            ("use_as_default", "Use in Segment", self.use_as_default),
            ("all_planes", "All planes", self.for_all_planes),
            ("export", "Export…", self._ask_to_export),
        ):
            button = PushButton(text=text)
            button.native.setObjectName(name)
            button.changed.connect(lambda _=None, action=action: self._guarded(action))
            buttons.addWidget(button.native)
            setattr(self, f"_{name}_button", button)
        for name in ("nuclei", "truth"):
            getattr(self, name).native.setObjectName(name)
        thresholds = QWidget()
        column = QVBoxLayout(thresholds)
        column.addLayout(form)
        column.addLayout(buttons)
        column.addStretch()
        self.tabs = QTabWidget()
        self.tabs.setObjectName("tabs")
        self.tabs.addTab(ScrollArea(thresholds), "Sliders")
        self.tabs.addTab(self.review, "Review")
        self.tabs.addTab(self.measure, "Measure")
        self.left_behind = LeftBehind()
        self.left_behind.opened.connect(self._bring_back)
        layout = QVBoxLayout(self)
        layout.addWidget(self.left_behind)
        layout.addWidget(self.tabs, 1)
        layout.addWidget(self.box)
        elide_lists(self)
        tab_in_order(self)
        explain(self, TUNE)
        self.nuclei.changed.connect(self._on_layer_chosen)
        self.presets.chosen.connect(lambda name: self._guarded(lambda: self.load_preset(name)))
        self.presets.said.connect(self.box.say)
        self.presets.failed.connect(lambda problem: self.box.say(problem, show_error))
        self.tabs.setCornerWidget(self.help_button())
        self.truth.changed.connect(self._tell_score)

    def _tunable(self, _: Any = None) -> list[str]:
        layers = [x for x in self._viewer.layers if isinstance(x, Labels)]
        return [x.name for x in layers if view_of(x) is not None]

    def _truths(self, _: Any = None) -> list[str]:
        mine = self.nuclei.value if hasattr(self, "nuclei") else None
        others = [x.name for x in self._viewer.layers if isinstance(x, Labels) and x.name != mine]
        return [NO_TRUTH, *others]

    def _refresh_layers(self, event: Any = None) -> None:
        """Follow layers that come, go or get another name."""
        for layer in self._viewer.layers:
            layer.events.name.disconnect(self._on_renamed)
            layer.events.name.connect(self._on_renamed)
        self.nuclei.reset_choices()
        self.truth.reset_choices()
        self._on_layer_chosen()
        self.measure.list_images()

    def _on_renamed(self, event: Any = None) -> None:
        """The layer that is tuned stays chosen, whatever it is called now."""
        view = self._followed
        self.nuclei.reset_choices()
        self.truth.reset_choices()
        if view is not None and view.layer in self._viewer.layers:
            self.nuclei.value = view.layer.name

    def _on_layer_chosen(self, _: Any = None) -> None:
        view = self._view()
        if view is self._followed:
            return
        before, self._followed = self._followed, view
        if before is not None:
            before.listeners.remove(self._catch_up)
            if self._on_click in before.layer.mouse_drag_callbacks:
                before.layer.mouse_drag_callbacks.remove(self._on_click)
        self.truth.reset_choices()
        if view is not None:
            view.layer.mouse_drag_callbacks.append(self._on_click)
            view.listeners.append(self._catch_up)
            self._show(view.document.settings)
        self._enable(view)
        self._all_planes_button.visible = view is not None and view.layer.ndim > 2
        self.review.show_view(view)
        self.measure.show_view(view)

    def _layer(self) -> Labels | None:
        return self._named(self.nuclei.value)

    def _named(self, name: str | None) -> Labels | None:
        return next((x for x in self._viewer.layers if isinstance(x, Labels) and x.name == name), None)

    def _view(self) -> DocumentView | None:
        layer = self._layer()
        return None if layer is None else view_of(layer)

    def _plane(self, view: DocumentView) -> tuple[int, ...]:
        """The plane of the result that is shown."""
        return view.index(step_of(self._viewer, view.layer))

    def _on_plane(self, _: Any = None) -> None:
        """Another plane is shown: the sliders stand where its nuclei were made."""
        if (view := self._view()) is not None and view.layer.ndim > 2:
            self._follow(view)

    def _views(self) -> int:
        view = self._view()
        return view.document.view_count if view is not None else 1

    def settings(self) -> PostprocessSettings:
        """The sliders' values; all views are told as 0, so that presets suit any number of them."""
        values = {name: control.value for name, control in self.controls.items()}
        views = self._views()
        usual = PostprocessSettings(method=values["method"]).votes_of(min(values["views"], views))
        if views == 1 or values["votes"] == usual:
            values["votes"] = 0
        if values["views"] >= views:
            values["views"] = 0
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
        return PostprocessSettings(**rounded, max_lost=self._max_lost)

    def _show(self, settings: PostprocessSettings) -> None:
        """Set the sliders without acting on it."""
        views = self._views()
        self._busy = True
        try:
            self._max_lost = settings.max_lost
            for name in ("views", "votes"):
                self.controls[name].max = max(2, views)
                self.controls[name].enabled = views > 1
            self.controls["merge_iou"].enabled = views > 1
            looked = min(settings.views or views, views)
            shown = settings.model_copy(update={"views": looked, "votes": settings.votes_of(looked)})
            for name, control in self.controls.items():
                value = getattr(shown, name)
                low, high = getattr(control, "min", None), getattr(control, "max", None)
                control.value = value if low is None or high is None else min(max(value, low), high)
        finally:
            self._busy = False

    # ---- acting ----

    def retune(self, _: Any = None, *, hand: str = "sliders") -> None:
        """Labels for where the sliders stand; called at every move."""
        view = self._view()
        if self._busy or view is None:
            return
        if self.controls["votes"].value > self.controls["views"].value:  # this comes back here
            self.controls["votes"].value = self.controls["views"].value
            return
        self._guarded(lambda: view.document.retune(self.settings(), self._plane(view), hand=hand))

    def _catch_up(self) -> None:
        """Sliders and score for the nuclei as they are now."""
        if (view := self._view()) is not None:
            self._follow(view)
            self._show_count()
            self._tell_score()
            self.presets.follow()

    def _enable(self, view: DocumentView | None) -> None:
        """Nothing works without nuclei, and a sentence says what to do."""
        for k in range(self.tabs.count()):  # the help beside them can always be asked for
            self.tabs.widget(k).setEnabled(view is not None)
        self.box.status.setText(MOVE if view is not None else NOTHING)
        self._show_count()

    def _show_count(self) -> None:
        """How many nuclei there were, and are."""
        view = self._view()
        if view is None:
            self.count_label.setText("")
            return
        now, before = len(view.document.present), view.begun_count
        noun = "nucleus" if now == 1 else "nuclei"
        self.count_label.setText(f"{now} {noun}" if now == before else f"{before} → {now} {noun}")

    def _follow(self, view: DocumentView) -> None:
        """Sliders where undo, another plane or another window put them."""
        index = self._plane(view)
        if index in view.document.planes and view.document.settings_of(index) != self.settings():
            self._show(view.document.settings_of(index))

    def _tell_score(self, _: Any = None) -> None:
        truth, layer = self._truth(), self._layer()
        data = np.zeros((0, 0), np.int32) if layer is None else np.asarray(layer.data)
        if truth is None or layer is None:
            self.score_label.setText("")
        elif truth.shape != data.shape:
            self.score_label.setText(f"the truth is {truth.shape}, the nuclei are {data.shape}")
        else:
            scored = score_image(match(truth, data))
            self.score_label.setText(
                f"score {scored.dsb_score:.3f}, AP50 {scored.ap[0]:.3f}: {scored.hits[0]} hits, "
                f"{scored.true - scored.hits[0]} missed, {scored.predicted - scored.hits[0]} extra"
            )

    def _truth(self) -> np.ndarray | None:
        layer = None if self.truth.value == NO_TRUTH else self._named(self.truth.value)
        return None if layer is None else np.asarray(layer.data)

    def reset(self) -> None:
        """Sliders back to where Segment had them; edits stay."""
        self._chosen()
        if (view := self._view()) is not None:
            self._show(view.begun_with)
            self.retune()
            self.presets.select(NO_PRESET)

    def load_preset(self, name: str) -> None:
        """Set the sliders to a preset."""
        if self._layer() is None:
            return
        if name == NO_PRESET:
            self.reset()
            return
        self._show(presets.load(name))
        self.retune()
        self.presets.select(name)

    def save_preset(self, name: str) -> None:
        """Keep where the sliders stand under a name."""
        self._chosen()
        self.presets.save(name)

    def use_as_default(self) -> None:
        """Make Segment work with these settings from now on, here and in sessions to come."""
        self._chosen()
        settings = self.settings()
        presets.save_default(settings)
        for widget in QApplication.allWidgets():
            if isinstance(widget, SegmentWidget):
                widget.use_defaults(settings.model_dump())
        self.box.say("Segment nuclei works with these settings from now on.")

    def find_best(self) -> None:
        """Sweep the settings for the best score against the truth, off the GUI thread."""
        view, truth = self._view(), self._truth()
        if view is None or truth is None or truth.shape != view.layer.data.shape:
            self.box.say("Choose a truth layer of the same size first: labels known to be right.", show_error)
            return
        if self.box.worker is not None:
            return
        index = self._plane(view)
        if index not in view.document.planes:
            self.box.say("This plane was not segmented: there is nothing to tune in it.", show_error)
            return
        raw, truth = view.document.planes[index].raw, truth[index]
        grid = GRID | (VIEWS_GRID if raw.view_count > 1 else {})
        self.box.start(
            "Find best", sweep_job, Postprocessor(raw), truth, self.settings(), grid, done=self._on_best
        )

    def _on_best(self, best: Best) -> None:
        self._show(best.settings)
        self.retune()
        self.box.say(f"Best score found: {best.score:.3f}; the sliders stand there now.")

    def export(self, path: str, chosen: str = "") -> None:
        """Save the nuclei; see `exporting.export`."""
        self.box.say(f"Saved {exporting.export(self._chosen(), path, chosen)}")

    def _ask_to_export(self) -> None:
        layer = self._chosen()
        path, chosen = QFileDialog.getSaveFileName(self, "Export nuclei", layer.name, exporting.FILTERS)
        if path:
            self._guarded(lambda: self.export(path, chosen))

    def _bring_back(self, path: Path) -> None:
        """Go on with the work of an earlier session."""
        self.nuclei.value = restored(self._viewer, path).name

    def for_all_planes(self) -> None:
        """Make the nuclei of every plane with the sliders as they stand, as one step."""
        self._chosen()
        if (view := self._view()) is not None:
            done = lambda: self.box.say("All planes are made with these settings.")  # noqa: E731
            view.retune_all(self.settings(), self._plane(view), done)

    def _chosen(self) -> Labels:
        layer = self._layer()
        if layer is None:
            raise UserError(NOTHING)
        return layer

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except UserError as error:
            self.box.say(str(error), show_error)

    def _on_click(self, layer: Labels, event: Any) -> None:
        """A click on a nucleus chooses it; painting and the like are left alone."""
        if layer.mode != "pan_zoom":
            return
        shown = {"view_direction": event.view_direction, "dims_displayed": event.dims_displayed}
        value = layer.get_value(event.position, **shown, world=True)
        self.review.choose(int(value or 0))

    def closed(self) -> None:
        """Nobody waits for a sweep any more."""
        self.box.cancel()
