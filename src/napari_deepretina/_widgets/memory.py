"""What windows remember from one session to the next: the values of their controls, folders, open docks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QTimer

from napari_deepretina.errors import UserError
from napari_deepretina.files import remove, write_text
from napari_deepretina.intake import read_json

SAVE_MS = 400
"""After a change, before it is written."""


def path() -> Path:
    """The file; it need not exist."""
    import platformdirs

    return Path(platformdirs.user_data_dir("napari-deepretina", appauthor=False)) / "windows.json"


def recall(part: str) -> dict[str, Any]:
    """What one window remembers; {} if nothing, or if the file is damaged."""
    found = _everything().get(part)
    return found if isinstance(found, dict) else {}


def remember(part: str, values: Mapping[str, Any]) -> None:
    """Keep what one window remembers, in place of what it did; a full disk only makes it forget."""
    try:
        write_text(path(), json.dumps({**_everything(), part: dict(values)}, indent=1))
    except UserError:
        return


def forget() -> None:
    """Forget everything."""
    remove(path())


def _everything() -> dict[str, Any]:
    try:
        content = read_json(path())
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


class Remembered(QObject):
    """Controls whose values come back in the next session.

    Parameters
    ----------
    part : name of the window in the file.
    controls : of magicgui, by name.
    """

    def __init__(self, parent: QObject, part: str, controls: Mapping[str, Any]) -> None:
        super().__init__(parent)
        self._part, self._controls = part, dict(controls)
        self.first = self.values()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SAVE_MS)
        self._timer.timeout.connect(self.save)

    def restore(self) -> None:
        """Set the controls to what was remembered, and follow them from now on."""
        self.show(recall(self._part))
        for control in self._controls.values():
            control.changed.connect(lambda _=None: self._timer.start())

    def values(self) -> dict[str, Any]:
        """The controls' values, fit for JSON."""
        plain = (str, int, float, bool, type(None))
        values = {name: control.value for name, control in self._controls.items()}
        return {name: v if isinstance(v, plain) else str(v) for name, v in values.items()}

    def show(self, values: Mapping[str, Any]) -> None:
        """Set controls; values that they cannot have are passed over."""
        for name, control in self._controls.items():
            value = values.get(name)
            if name not in values or (
                (choices := getattr(control, "choices", None)) and value not in choices
            ):
                continue
            try:
                control.value = value
            except (ValueError, TypeError):
                continue  # of another version

    def save(self) -> None:
        """Write the values now."""
        self._timer.stop()
        remember(self._part, self.values())
