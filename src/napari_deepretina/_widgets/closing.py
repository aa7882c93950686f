"""What to ask when a window closes."""

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


def keep_changed(parent: QWidget, names: list[str]) -> bool:
    """Whether layers that a person changed are to be kept."""
    box = QMessageBox(parent)
    box.setObjectName("changed_layers")
    box.setWindowTitle("Changed layers")
    box.setText(f"You changed {' and '.join(map(repr, names))}.")
    box.setInformativeText("Keep what you changed? All other layers of Inspect go.")
    keep = box.addButton("Keep", QMessageBox.ButtonRole.AcceptRole)
    box.addButton("Remove", QMessageBox.ButtonRole.DestructiveRole)
    box.setDefaultButton(keep)
    box.exec()
    return box.clickedButton() is keep
