"""What to ask when napari closes while a run goes on."""

from __future__ import annotations

from typing import Literal

from qtpy.QtWidgets import QMessageBox, QWidget


def ask_about_run(parent: QWidget) -> Literal["leave", "stop", "cancel"]:
    """Leave the run going, stop it, or do not close after all."""
    box = QMessageBox(parent)
    box.setWindowTitle("Training goes on")
    box.setText("A training run is at work.")
    box.setInformativeText("It can go on without napari; Train finds it again next time.")
    leave = box.addButton("Leave it running", QMessageBox.ButtonRole.AcceptRole)
    stop = box.addButton("Stop it, keep the best", QMessageBox.ButtonRole.DestructiveRole)
    box.addButton(QMessageBox.StandardButton.Cancel)
    box.setDefaultButton(leave)
    box.exec()
    clicked = box.clickedButton()
    return "leave" if clicked is leave else "stop" if clicked is stop else "cancel"
