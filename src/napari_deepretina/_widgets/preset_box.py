"""Presets in Tune: choose one, see whether it was changed, save, rename and delete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from magicgui.widgets import ComboBox
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QInputDialog, QLabel, QMenu, QMessageBox, QToolButton, QWidget

from napari_deepretina._widgets import presets
from napari_deepretina.errors import UserError
from napari_deepretina.postprocess import PostprocessSettings

NO_PRESET = "as segmented"


class PresetBox(QWidget):
    """A list of presets with what can be done to them.

    ``chosen`` reports the name of the preset that a person chose, or `NO_PRESET`; ``said`` a message;
    ``failed`` why something could not be done.

    Parameters
    ----------
    current : gives the settings as they are now.
    """

    chosen = Signal(str)
    said = Signal(str)
    failed = Signal(str)

    def __init__(self, current: Callable[[], PostprocessSettings]) -> None:
        super().__init__()
        self._current = current
        self._quiet = False
        self.choice = ComboBox(choices=lambda _: [NO_PRESET, *presets.names()])
        self.choice.native.setObjectName("preset")
        self.choice.changed.connect(self._on_chosen)
        self.changed = QLabel("")
        self.changed.setObjectName("preset_changed")
        button = QToolButton()
        button.setObjectName("preset_menu")
        button.setText("…")
        button.setStyleSheet("QToolButton::menu-indicator { image: none }")
        button.setToolTip("Save, rename or delete a preset")
        button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(button)
        self._actions: dict[str, Any] = {}
        for name, text, act in (
            ("save", "Save as a preset…", self._ask_to_save),
            ("update", "Save the changes", lambda: self.save(str(self.choice.value))),
            ("rename", "Rename…", self._ask_to_rename),
            ("delete", "Delete…", self._ask_to_delete),
        ):
            action = menu.addAction(text)
            action.setObjectName(f"preset_{name}")
            action.triggered.connect(lambda _=False, act=act: self._guarded(act))
            self._actions[name] = action
        button.setMenu(menu)
        menu.aboutToShow.connect(self._enable)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.choice.native, 1)
        layout.addWidget(self.changed)
        layout.addWidget(button)

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Other windows may have saved or deleted presets."""
        super().showEvent(event)
        self.select(str(self.choice.value))

    def follow(self) -> None:
        """Show whether the settings still are those of the preset."""
        self.changed.setText("changed" if self.is_changed() else "")

    def is_changed(self) -> bool:
        """Whether a preset is chosen and the settings are not those that it keeps."""
        name = self.choice.value
        if name not in presets.names():
            return False
        try:
            return presets.load(name) != self._current()
        except UserError:
            return False

    def select(self, name: str) -> None:
        """Show a name as the chosen one, without acting on it."""
        self._quiet = True
        try:
            self.choice.reset_choices()
            self.choice.value = name if name in self.choice.choices else NO_PRESET
        finally:
            self._quiet = False
        self.follow()

    def save(self, name: str) -> None:
        """Keep the settings under a name, which is chosen from then on."""
        presets.save(name.strip(), self._current())
        self.select(name.strip())
        self.said.emit(f"Preset {name.strip()!r} is saved.")

    def name_anew(self, name: str) -> None:
        """Give the chosen preset another name."""
        presets.name_anew(self._of_a_person(), name.strip())
        self.select(name.strip())
        self.said.emit(f"The preset is called {name.strip()!r} now.")

    def delete(self) -> None:
        """Forget the chosen preset; the sliders stay where they are."""
        name = self._of_a_person()
        presets.delete(name)
        self.select(NO_PRESET)
        self.said.emit(f"Preset {name!r} is deleted; the sliders stay where they are.")

    def _of_a_person(self) -> str:
        name = str(self.choice.value)
        if name not in presets.names():
            raise UserError("choose a preset first")
        return name

    def _on_chosen(self, name: str) -> None:
        if not self._quiet:
            self.chosen.emit(name)
            self.follow()

    def _enable(self) -> None:
        real = self.choice.value in presets.names()
        for name in ("rename", "delete"):
            self._actions[name].setEnabled(real)
        self._actions["update"].setEnabled(real and self.is_changed())

    def _ask_to_save(self) -> None:
        name, chosen = QInputDialog.getText(self, "Save preset", "Name of the preset:")
        if not chosen:
            return
        if name.strip() in presets.names() and not self._sure(f"Replace the preset {name.strip()!r}?"):
            return
        self.save(name)

    def _ask_to_rename(self) -> None:
        old = self._of_a_person()
        name, chosen = QInputDialog.getText(self, "Rename preset", "New name:", text=old)
        if chosen and name.strip() != old:
            self.name_anew(name)

    def _ask_to_delete(self) -> None:
        if self._sure(f"Delete the preset {self._of_a_person()!r}?"):
            self.delete()

    def _sure(self, question: str) -> bool:
        return QMessageBox.question(self, "Presets", question) == QMessageBox.StandardButton.Yes

    def _guarded(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except UserError as error:
            self.failed.emit(str(error))
