"""A Run button with what belongs to it: a worker, progress, Cancel, and a message on how it went."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import napari.viewer
from napari.qt.threading import create_worker
from napari.utils import progress
from napari.utils.notifications import show_error, show_info, show_warning
from napari.utils.theme import get_theme
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QFrame,
    QGridLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_deepretina._widgets.jobs import Cancelled, Failure, guarded
from napari_deepretina.errors import in_a_window

LINES = 4
"""Of a message that can be read at once; longer ones scroll, so that nothing around them moves."""


@dataclass(frozen=True)
class Offer:
    """A button under a message: its text, its tooltip, and what it does."""

    text: str
    tip: str
    action: Callable[[], Any]


class Message(QScrollArea):
    """A text of any length in a place of fixed height."""

    def __init__(self, text: str, lines: int) -> None:
        super().__init__()
        self.label = QLabel(text)
        self.label.setObjectName("status")
        self.label.setWordWrap(True)
        self.label.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidgetResizable(True)
        self.setWidget(self.label)
        self.setFixedHeight(lines * self.fontMetrics().lineSpacing() + 10)


class RunBox(QWidget):
    """Runs one job at a time off the GUI thread.

    ``asked`` reports that a person pressed Run; the owner then calls `start`. While the job runs, the
    button cancels it, after the step that is under way.

    Parameters
    ----------
    only_cancels : the button is there only while a job runs, which others begin.
    """

    asked = Signal()

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        hint: str,
        *,
        text: str = "Run",
        name: str = "run",
        only_cancels: bool = False,
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._text, self._only_cancels = text, only_cancels
        self.worker: Any = None
        self._activity: progress | None = None
        self._stop = threading.Event()
        self._done: Callable[[Any], None] | None = None
        self._cancelled: Callable[[Any], None] | None = None
        self._show_patch: Callable[[Any], None] | None = None
        self._patches: list[Any] = []
        self._over: Callable[[], object] | None = None
        self._latest: Any = None
        self._showing = False
        self.button = QPushButton(text)
        self.button.setObjectName(name)
        self.button.clicked.connect(self._on_clicked)
        self.button.setVisible(not only_cancels)
        self.bar = QProgressBar()
        self.bar.setObjectName("progress")
        self.bar.setVisible(False)
        message = Message(hint, LINES - only_cancels)
        self.status = message.label
        self.offers: list[QPushButton] = []
        self._grid = QGridLayout()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.button, self.bar, message):
            layout.addWidget(part)
        layout.addLayout(self._grid)
        keep = self.bar.sizePolicy()
        keep.setRetainSizeWhenHidden(True)  # nothing moves when a run begins
        self.bar.setSizePolicy(keep)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)

    def start(
        self,
        title: str,
        job: Callable[..., Generator[Any, None, Any]],
        *args: Any,
        done: Callable[[Any], None],
        cancelled: Callable[[Any], None] | None = None,
        patch: Callable[[Any], None] | None = None,
        over: Callable[[], object] | None = None,
    ) -> None:
        """Run a job of steps (`Progress`).

        Parameters
        ----------
        title : shown in napari's activity dock.
        done : gets the job's result, on the GUI thread; failures are told here.
        cancelled : gets what a cancelled run leaves, if it leaves anything.
        patch : gets each `Patch` of the result while it goes.
        over : called last, however the job ended.
        """
        self._show_patch, self._patches = patch, []
        self._done, self._cancelled, self._over = done, cancelled, over
        self._stop = threading.Event()
        self._activity = progress(total=100, desc=title)
        self.worker = create_worker(guarded, self._stop, job, *args, _start_thread=False)
        self.worker.yielded.connect(self._on_progress)
        self.worker.returned.connect(self._on_returned)
        self.worker.finished.connect(self._on_finished)
        self.offer([])
        self.button.setText("Cancel")
        self.button.setVisible(True)
        self.bar.setValue(0)
        self.bar.setVisible(True)
        self.status.setStyleSheet("")
        self.status.setText("Starting…")
        self.worker.start()

    def cancel(self) -> None:
        """Stop after the step that is under way."""
        if self.worker is not None:
            self._stop.set()
            self.button.setEnabled(False)
            self.status.setText("Cancelling…")

    def say(self, message: str, notify: Any = show_info) -> None:
        """Tell it here, where it stays, and as a notification."""
        theme = get_theme(self._viewer.theme)
        colour = {show_error: theme.error, show_warning: theme.warning}.get(notify, theme.current)
        # The theme's red is made for icons: as text on the dark theme it can hardly be read.
        self.status.setStyleSheet(f"border-left: 4px solid {colour.as_hex()}; padding: 4px 0 4px 8px")
        message = in_a_window(message)
        self.status.setText(message)
        notify(message)

    def offer(self, offers: Sequence[Offer]) -> None:
        """Put buttons under the message, in place of those that are there."""
        for button in self.offers:
            self._grid.removeWidget(button)
            button.deleteLater()
        self.offers = []
        for place, offered in enumerate(offers):
            button = QPushButton(offered.text)
            button.setObjectName(f"offer_{place}")
            button.setToolTip(offered.tip)
            button.clicked.connect(lambda _=False, action=offered.action: action())
            self._grid.addWidget(button, place // 2, place % 2)
            self.offers.append(button)

    def _on_clicked(self) -> None:
        if self.worker is not None:
            self.cancel()
        else:
            self.asked.emit()

    def _on_progress(self, step: Any) -> None:
        """Show the latest step; napari lets Qt work while it draws, so more may come in the midst of it."""
        if step.patch is not None:
            self._patches.append(step.patch)
        self._latest = step
        if self._showing:
            return
        self._showing = True
        try:
            while self._latest is not None and self._activity is not None:
                step, self._latest = self._latest, None
                self._show_progress(step)
        finally:
            self._showing = False

    def _show_progress(self, step: Any) -> None:
        while self._patches and self._show_patch is not None:
            self._show_patch(self._patches.pop(0))
        percent = int(step.done * 100)
        self.bar.setValue(percent)
        if self.button.isEnabled():
            self.status.setText(in_a_window(step.text) + "…")
        # Last, because napari lets Qt work in here: the run may be over when this comes back.
        if self._activity is not None:
            self._activity.update(max(0, percent - self._activity.n))

    def _on_returned(self, result: Any) -> None:
        if isinstance(result, Failure):
            self.say(result.message, show_error)
        elif isinstance(result, Cancelled):
            self._on_cancelled(result.left)
        elif self._done is not None and self.worker is not None:
            self._done(result)

    def _on_cancelled(self, left: Any) -> None:
        if self._cancelled is not None and left is not None:
            self._cancelled(left)
        else:
            self.status.setText("Cancelled; nothing was changed.")

    def _on_finished(self) -> None:
        if self._activity is not None:
            self._activity.close()
        self.worker, self._activity = None, None
        self._latest, self._patches = None, []
        self.button.setText(self._text)
        self.button.setEnabled(True)
        self.button.setVisible(not self._only_cancels)
        self.bar.setVisible(False)
        if self._over is not None:
            self._over()
