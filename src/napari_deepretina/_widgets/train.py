"""The Train widget: a run in a process of its own, started, watched and steered from the viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import napari.viewer
from magicgui.widgets import ComboBox, LineEdit
from napari.utils.notifications import show_error, show_info
from napari.utils.theme import get_theme
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import (
    QApplication,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
)

from napari_deepretina._widgets.closing import ask_about_run
from napari_deepretina._widgets.curves import CurvesWidget
from napari_deepretina._widgets.dock import Dock
from napari_deepretina._widgets.fitting import elide_lists, scrolled, tab_in_order
from napari_deepretina._widgets.forecasting import Forecaster, existing, recorded, resume_arguments
from napari_deepretina._widgets.run_layers import RunLayers
from napari_deepretina._widgets.sample_box import SampleBox
from napari_deepretina._widgets.segment import SegmentWidget
from napari_deepretina._widgets.segment_form import DEVICES
from napari_deepretina._widgets.tips import TRAIN, explain
from napari_deepretina.data.project import Project
from napari_deepretina.errors import UserError, in_a_window
from napari_deepretina.files import expanded, short_path
from napari_deepretina.model.runs import known_runs, runs_folder, weights_in
from napari_deepretina.model.weights import available
from napari_deepretina.training.recipe import shipped_recipes
from napari_deepretina.training.watch import (
    RunWatch,
    checked_name,
    find_running,
    fresh_run_name,
    start_run,
)

POLL_MS = 500
FILE = "a file…"
AS_RECIPE = "as the recipe says"


class TrainWidget(Dock):
    """Collects samples, starts ``napari-deepretina train`` as a child process, and follows its events."""

    title = "Train"
    page = "train"

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.run: RunWatch | None = None
        self._files: list[str] = []
        self._forecaster = Forecaster(self)
        self._forecaster.told.connect(self._on_forecast)
        self._forecaster.failed.connect(lambda problem: self._say(problem, show_error))
        self._run_layers = RunLayers(napari_viewer)
        self.status = QLabel("Add annotated images and press Start.")
        self.samples = SampleBox(
            napari_viewer, Project(runs_folder().parent / "project"), guarded=self._guarded, say=self._say,
            kept=lambda: self.add_data(str(self.project.folder)), corner=self.help_button(),
        )  # fmt: skip
        self.image, self.labels, self.part = self.samples.image, self.samples.labels, self.samples.part
        self._keeper = self.samples.keeper
        self._keeper.failed.connect(lambda problem: self._say(problem, show_error))
        self._keeper.saved.connect(lambda name: self.status.setText(f"Edits kept in {name}."))
        self._build()
        self.keep_values("recipe", "options", "part", "device")
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self.poll)
        events = napari_viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.connect(self._refresh_layers)
        napari_viewer.layers.selection.events.active.connect(self._follow_selection)
        self._follow_selection()
        if running := find_running():
            self.attach(running[-1])
            self._say(f"Found the run {running[-1].folder.name} at work.")

    # ---- form ----

    def _build(self) -> None:
        self.recipe = ComboBox(label="recipe", choices=shipped_recipes(), value="fine-tune")
        self.start_from = ComboBox(label="start from", choices=lambda _: self._starts(), value="bundled")
        self.start_from.changed.connect(self._start_chosen)
        self.device = ComboBox(label="device", choices=DEVICES)
        self.name = LineEdit(label="name", value=fresh_run_name())
        self.options = LineEdit(label="changes", value="")
        self.options.tooltip = "Changes of the recipe, e.g. main.steps=100 main.learning_rate=0.0001"
        self.data = QListWidget()
        self.data.setObjectName("data")
        self.data.setFixedHeight(3 * self.data.fontMetrics().lineSpacing() + 12)
        self.data.setToolTip("Double-click and end the line with @3 to show a set three times as often.")
        layout = scrolled(self)
        layout.addWidget(self.samples)
        layout.addLayout(
            self._row(
                ("add_data", "Add folder, zip, COCO…", self._ask_for_data),
                ("remove_data", "Remove", self._remove_data),
            )
        )
        layout.addWidget(self.data)
        layout.addLayout(self.rows("recipe", "start_from", "device", "name", "options"))
        layout.addLayout(
            self._row(
                ("forecast", "Forecast", self.forecast),
                ("start", "Start", self.start),
                ("pause", "Pause", self.pause_or_go_on),
                ("stop", "Stop, keep best", self.stop),
            )
        )
        layout.addLayout(
            self._row(("open_run", "Open run…", self._ask_for_run), ("resume", "Resume", self.resume))
        )
        self.bar = QProgressBar()
        self.bar.setObjectName("progress")
        self.curves = CurvesWidget()
        self.status.setObjectName("status")
        self.status.setWordWrap(True)
        self.log = QPlainTextEdit()
        self.log.setObjectName("log")
        self.log.setReadOnly(True)
        self.log.setFixedHeight(90)
        for part in (self.bar, self.curves, self.status, self.log):
            layout.addWidget(part)
        layout.addStretch()
        elide_lists(self)
        tab_in_order(self)
        explain(self, TRAIN)
        self._enable()

    def _row(self, *buttons: tuple[str, str, Any]) -> QHBoxLayout:
        row = QHBoxLayout()
        for name, text, action in buttons:
            button = QPushButton(text)
            button.setObjectName(name)
            button.clicked.connect(lambda _=False, action=action: self._guarded(action))
            row.addWidget(button)
            setattr(self, f"{name}_button", button)
        return row

    def _refresh_layers(self, event: Any = None) -> None:
        self.samples.refresh_layers()

    def _follow_selection(self, event: Any = None) -> None:
        self.samples.follow_selection()

    def _enable(self) -> None:
        going = self.run is not None and not self.run.over
        self.start_button.setEnabled(not going)
        self.open_run_button.setEnabled(not going)
        self.resume_button.setEnabled(self.run is not None and not going)
        self.pause_button.setEnabled(going)
        self.stop_button.setEnabled(going)
        paused = self.run is not None and self.run.status == "paused"
        self.pause_button.setText("Go on" if paused else "Pause")

    # ---- data ----

    @property
    def project(self) -> Project:
        """Where samples from layers are kept."""
        return self._keeper.project

    def add_data(self, path: str) -> None:
        """Train on this folder, zip or COCO file as well."""
        if path in self.chosen_data():
            return
        self.data.addItem(short_path(path))
        item = self.data.item(self.data.count() - 1)
        item.setFlags(item.flags() | Qt.ItemFlag.ItemIsEditable)

    def chosen_data(self) -> list[str]:
        """Paths in the list, with their weights."""
        return [str(expanded(self.data.item(i).text())) for i in range(self.data.count())]

    def _remove_data(self) -> None:
        for item in self.data.selectedItems():
            self.data.takeItem(self.data.row(item))

    def _ask_for_data(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Annotated images", "", "Zip or COCO (*.zip *.json)")
        path = path or QFileDialog.getExistingDirectory(self, "Folder with annotated images")
        if path:
            self.add_data(path)

    def _starts(self) -> list[tuple[str, str]]:
        """Where training can start: names, weights of runs, files chosen so far, and a way to another."""
        known = available()
        found = [(AS_RECIPE, AS_RECIPE)]
        found += [(name, name) for name in ("bundled", "random", "coco", "imagenet", *known)]
        runs = [p for p in map(weights_in, known_runs()) if p is not None]
        found += [(f"run {p.parent.name}", str(p)) for p in runs if p.parent.name not in known]
        found += [(Path(p).name, p) for p in self._files]
        return [*found, (FILE, FILE)]

    def _start_chosen(self, value: str) -> None:
        if value != FILE:
            return
        path, _ = QFileDialog.getOpenFileName(self, "Weights", "", "Weights (*.safetensors *.h5)")
        if path and path not in self._files:
            self._files.append(path)
        self.start_from.reset_choices()
        self.start_from.value = path or "bundled"

    # ---- the run ----

    def _arguments(self) -> list[str]:
        """What the form asks for, as the command takes it."""
        data = existing(self.chosen_data())
        if self.start_from.value == FILE:
            raise UserError("choose the weights to start from")
        start = [] if self.start_from.value == AS_RECIPE else ["--weights", self.start_from.value]
        device = ["--device", self.device.value]
        return [self.recipe.value, "--data", *data, *start, *device, *self._changes()]

    def _changes(self) -> list[str]:
        return [word for text in self.options.value.split() for word in ("--set", text)]

    def forecast(self) -> None:
        """Tell what the run would do and take, in the log."""
        self._forecaster.ask(self._arguments())
        self.status.setText("Reading the data, and trying a few steps…")

    def _on_forecast(self, told: str) -> None:
        self.log.setPlainText(told)
        self.status.setText(f"Forecast: {told.splitlines()[-1]}.")

    def start(self) -> None:
        """Start a new run on the data in the list."""
        arguments = self._arguments()
        folder = runs_folder() / checked_name(self.name.value)
        if folder.exists():
            raise UserError(f"there is a run {self.name.value!r} already: choose another name")
        self.attach(start_run(folder, arguments))
        self._say(f"Started; everything of the run is kept in {short_path(folder)}.")

    def open_run(self, folder: Path) -> None:
        """Show a run that ended, made here or by the command line, with its data and changes."""
        if not (folder / "recipe.toml").exists():
            raise UserError(f"{folder} is not the folder of a run")
        run = RunWatch(folder)
        run.poll()
        if not run.over:
            self.attach(run)
            return
        self.run = run
        self._show(run)
        if (asked := recorded(folder)) is not None:
            self.data.clear()
            for path in asked.data:
                self.add_data(path)
            self.options.value = " ".join(asked.overrides)
            if asked.recipe in self.recipe.choices:
                self.recipe.value = asked.recipe
        self.status.setText(
            f"{folder.name}: {run.status} at step {run.step} of {run.total}. "
            "Resume goes on with it, and with the changes above."
        )

    def resume(self) -> None:
        """Go on with the run that is shown, and with what the form says of changes."""
        if self.run is None:
            raise UserError("open a run first")
        folder = self.run.folder
        self.attach(start_run(folder, resume_arguments(folder, self.options.value, self.device.value)))

    def attach(self, run: RunWatch) -> None:
        """Follow a run."""
        self.run = run
        self.log.setPlainText("")
        self._timer.start()
        self._watch_for_closing()
        self.poll()
        self._enable()

    def pause_or_go_on(self) -> None:
        """Let the run wait, or go on."""
        if self.run is not None:
            if self.run.status == "paused":
                self.run.go_on()
            else:
                self.run.pause()

    def stop(self) -> None:
        """End the run after its step; the best weights so far are kept."""
        if self.run is not None:
            self.run.go_on()
            self.run.stop()
            self.status.setText("Stopping: the run judges what it has…")

    def poll(self) -> None:
        """Show what the run did since the last look."""
        if self.run is None or not self.run.poll():
            return
        run = self.run
        self._show(run)
        if run.over:
            self._timer.stop()
            self._tell_end()
        else:
            self.status.setText(self._progress())

    def _show(self, run: RunWatch) -> None:
        """Curves, progress, log and sample of a run."""
        theme = get_theme(self._viewer.theme)
        self.curves.show_curves(run.curves, run.total, theme.text.as_hex())
        self.bar.setMaximum(max(1, run.total))
        self.bar.setValue(run.step)
        self.log.setPlainText(run.log_tail())
        self.log.verticalScrollBar().setValue(self.log.verticalScrollBar().maximum())
        self._run_layers.show(run.folder)
        self._enable()

    def _progress(self) -> str:
        run = self.run
        assert run is not None
        words = [f"{run.status}: step {run.step} of {run.total}"]
        if "images_per_second" in run.last:
            words.append(f"{run.last['images_per_second']:.1f} images/s on {run.last['device']}")
            words.append(f"learning rate {run.last['learning_rate']:.2g}")
        left = run.seconds_left()
        if left is not None:
            words.append(f"{left / 60:.0f} min left" if left > 60 else "under 1 min left")
        if run.curves["score"]:
            words.append(f"best score {max(v for _, v in run.curves['score']):.3f}")
        return ", ".join(words)

    def _tell_end(self) -> None:
        run = self.run
        assert run is not None
        if self.name.value == run.folder.name:
            self.name.value = fresh_run_name()
        if run.status in ("failed", "lost"):
            self._say(f"The run ended: {run.reason} (log: {short_path(run.folder / 'log.txt')})", show_error)
            return
        try:
            path = run.publish(run.folder.name)
        except UserError as error:
            self._say(str(error), show_error)
            return
        self.start_from.reset_choices()
        for widget in QApplication.allWidgets():
            if isinstance(widget, SegmentWidget):
                widget.refresh_weights()
        best = max((v for _, v in run.curves["score"]), default=0.0)
        how = "The run is done" if run.status == "finished" else "The run was stopped"
        kept = run.last.get("best_step") == 0 and run.curves["score"]
        told = "no weights were better than those it started from, score" if kept else "best score"
        self._say(f"{how}: {told} {best:.3f}. Segment finds the weights as {path.stem!r}.")

    def _ask_for_run(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of the run", str(runs_folder()))
        if folder:
            self.open_run(Path(folder))

    # ---- closing ----

    def _watch_for_closing(self) -> None:
        window = self.window()
        if window is not self:
            window.installEventFilter(self)  # once more does no harm

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Closing napari while a run goes: ask what is to become of it."""
        closing = event.type() == QEvent.Type.Close and watched is self.window()
        if closing and self.run is not None and not self.run.over:
            answer = self._ask_about_run()
            if answer == "cancel":
                event.ignore()
                return True
            if answer == "stop":
                self.stop()
        return False

    def _ask_about_run(self) -> str:
        return ask_about_run(self)

    def _say(self, message: str, notify: Any = show_info) -> None:
        self.status.setText(message := in_a_window(message))
        notify(message)

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except UserError as error:
            self._say(str(error), show_error)
