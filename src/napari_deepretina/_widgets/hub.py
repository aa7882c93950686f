"""What all windows want to know: that a layer has a result, and that work could not be written."""

from __future__ import annotations

from concurrent.futures import Future

from napari.utils.notifications import show_warning
from qtpy.QtCore import QObject, Signal


class Hub(QObject):
    """Reports results to all windows."""

    shown = Signal(object)
    """A layer has a document, or another one than before."""
    failed = Signal(str)
    """Why work could not be written to disk; may come from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._told = ""
        self.failed.connect(self._warn)

    def _warn(self, problem: str) -> None:
        """Report a problem once, and not after every step."""
        if problem != self._told:
            self._told = problem
            show_warning(f"Your work is not safe from a crash: {problem}")


hub = Hub()


def report(written: Future[None]) -> None:
    """Report why a write failed, if it did; called by the thread that wrote."""
    if (error := written.exception()) is not None:
        hub.failed.emit(str(error))
