"""A viewer with our widget docked, driven like a person would."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _offscreen_gl(monkeypatch):
    """Qt's offscreen platform has no OpenGL: answer vispy's questions about its limits."""
    if os.environ.get("QT_QPA_PLATFORM") != "offscreen":
        return
    from vispy.gloo import gl

    monkeypatch.setattr(
        gl, "glGetParameter", lambda name: "" if name == gl.GL_EXTENSIONS else 2048, raising=True
    )


@pytest.fixture(autouse=True)
def _no_dialog_waits(monkeypatch):
    """A dialog that nobody answers would hold the suite up for ever."""

    def unexpected(box, *_):
        raise AssertionError(f"a dialog was opened: {box.text()}")

    monkeypatch.setattr("qtpy.QtWidgets.QMessageBox.exec", unexpected)


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


class Panel:
    """The Segment widget with a person's hands."""

    def __init__(self, viewer, qtbot):
        from qtpy.QtCore import Qt
        from qtpy.QtWidgets import QPushButton

        self.viewer, self.qtbot = viewer, qtbot
        self.dock, self.widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Segment nuclei")
        self.button = self.widget.findChild(QPushButton, "run")
        self._left = Qt.MouseButton.LeftButton

    def click(self):
        self.qtbot.mouseClick(self.button, self._left)

    def wait(self):
        self.qtbot.waitUntil(lambda: self.button.text() == "Run" and self.button.isEnabled(), timeout=60_000)

    def run(self):
        self.click()
        self.wait()
        return self.widget.box.status.text()

    def labels(self):
        return [layer for layer in self.viewer.layers if layer._type_string == "labels"]


@pytest.fixture
def panel(viewer, qtbot):
    return Panel(viewer, qtbot)
