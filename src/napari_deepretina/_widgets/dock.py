"""What all windows of ours have in common: they open as tabs, help themselves, and notice being closed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from qtpy.QtCore import QEvent, QTimer
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import (
    QApplication,
    QDialog,
    QDockWidget,
    QFormLayout,
    QMainWindow,
    QTextBrowser,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_deepretina._widgets.memory import Remembered, recall, remember

OPEN = "docks"
"""Under this name the windows that were open are remembered."""


class Dock(QWidget):
    """A window of ours beside napari's canvas.

    Attributes
    ----------
    title : as the manifest calls it.
    page : of the documentation, opened by its "?" button.
    """

    title = ""
    page = ""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._docked, self._comes_forward = False, True
        self._main: Callable[[], QMainWindow | None] = lambda: None

    def help_button(self) -> QToolButton:
        """A "?" that opens this window's page of the documentation."""
        button = QToolButton()
        button.setObjectName("help")
        button.setText("?")
        button.setToolTip("Open the page of the documentation on this window")
        button.clicked.connect(lambda: show_page(self, self.page))
        return button

    def rows(self, *names: str) -> QFormLayout:
        """A form of controls that are attributes of this window, each with its label before it."""
        form = QFormLayout()
        for name in names:
            control = getattr(self, name)
            control.native.setObjectName(name)
            form.addRow(control.label, control.native)
        return form

    def keep_values(self, *names: str) -> None:
        """Controls that come back in the next session as they were left."""
        controls = {name: getattr(self, name) for name in names}
        Remembered(self, self.page, controls).restore()

    def closed(self) -> None:
        """The dock was closed: nobody waits for its work any more."""

    def event(self, event: QEvent) -> bool:
        """A closed dock only loses its parent."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is None:
                self.closed()
                QTimer.singleShot(0, self._forget_when_closed)
            elif not self._docked:
                QTimer.singleShot(0, self._join)
        return bool(super().event(event))

    def _join(self) -> None:
        """Lie as a tab over the other windows of ours, and remember that this one is open."""
        try:
            mine, window = _dock_of(self), self.window()
        except RuntimeError:  # closed in the meantime
            return
        if mine is None or not isinstance(window, QMainWindow) or self._docked:
            return
        self._docked, self._main = True, weakref.ref(window)
        others = [d for w in window.findChildren(Dock) if w is not self and (d := _dock_of(w)) is not None]
        beside = [d for d in others if not d.isFloating() and not d.isHidden()]
        if beside and mine not in window.tabifiedDockWidgets(beside[-1]):
            window.tabifyDockWidget(beside[-1], mine)
        if self._comes_forward:
            QTimer.singleShot(0, mine.raise_)  # Qt lays tabs out first
        before = recall(OPEN).get("open", [])
        if not others:
            reopen([title for title in before if title != self.title], self._viewer)
        remember_open(window)

    def _forget_when_closed(self) -> None:
        """A window that a person closed does not come back; one that went with napari does."""
        try:
            window = self._main()
            if window is not None and window.isVisible():
                remember_open(window)
        except RuntimeError:  # napari has gone
            return


def _dock_of(widget: QWidget) -> QDockWidget | None:
    """The dock that holds a widget."""
    found: Any = widget.parent()
    while found is not None and not isinstance(found, QDockWidget):
        found = found.parent()
    return found


def remember_open(window: QMainWindow) -> None:
    """Keep in mind which windows of ours are open, for the next session."""
    remember(OPEN, {"open": [w.title for w in window.findChildren(Dock) if _dock_of(w) is not None]})


def reopen(titles: list[str], viewer: Any) -> None:
    """Open windows that were open when napari was closed last, as tabs behind the one in front."""
    for title in titles:
        try:
            _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", title)
        except (KeyError, ValueError):
            continue  # another version's
        widget._comes_forward = False


def keys_to_canvas(widget: QWidget) -> None:
    """Let keys go to the canvas: a new layer puts the focus into a field of napari's layer controls.

    Nothing is taken from a person who types into one of our windows.
    """
    QTimer.singleShot(0, lambda: _focus_canvas(widget))


def _focus_canvas(widget: QWidget) -> None:
    try:
        window = widget.window()
    except RuntimeError:  # closed in the meantime
        return
    focused: Any = QApplication.focusWidget()
    here = focused if focused is not None and focused.isVisible() else None
    while here is not None and not isinstance(here, Dock):
        here = here.parent()
    centre = window.centralWidget() if isinstance(window, QMainWindow) else None
    canvas = None if centre is None else centre.findChild(QOpenGLWidget)
    if here is None and canvas is not None:
        canvas.setFocus()


def page_text(page: str) -> str:
    """A page of the documentation that comes with the package, in Markdown."""
    return (files("napari_deepretina") / "help" / f"{page}.md").read_text("utf-8")


def show_page(parent: QWidget, page: str) -> QDialog:
    """Open a page of the documentation in a window of its own; the viewer can be used beside it."""
    window = QDialog(parent)
    window.setObjectName("help_page")
    window.setWindowTitle("Deep Retina: help")
    text = QTextBrowser()
    text.setObjectName("help_text")
    text.setOpenExternalLinks(True)
    text.setMarkdown(page_text(page))
    QVBoxLayout(window).addWidget(text)
    window.resize(560, 620)
    window.show()
    return window
