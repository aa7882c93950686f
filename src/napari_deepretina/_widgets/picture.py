"""A picture inside a widget."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import QDialog, QLabel, QScrollArea, QVBoxLayout


class Picture(QScrollArea):
    """A PNG, scaled to the width there is; a click opens it in a window of its own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setMinimumHeight(160)
        self.setWidgetResizable(True)
        self._label = QLabel()
        self._label.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.setWidget(self._label)
        self.pixmap = QPixmap()
        self.window_of_its_own: QDialog | None = None

    def show_png(self, content: bytes) -> None:
        """Show a picture."""
        self.pixmap = QPixmap()
        self.pixmap.loadFromData(content)
        self.setToolTip("Click to see it large.")
        self._fit()

    def clear(self) -> None:
        """Show nothing."""
        self.pixmap = QPixmap()
        self.setToolTip("")
        self._label.clear()

    def _fit(self) -> None:
        if not self.pixmap.isNull():
            width = min(max(200, self.viewport().width() - 4), self.pixmap.width())
            self._label.setPixmap(
                self.pixmap.scaledToWidth(width, Qt.TransformationMode.SmoothTransformation)
            )

    def resizeEvent(self, event: Any) -> None:  # noqa: N802
        """Keep to the width there is."""
        super().resizeEvent(event)
        self._fit()

    def mouseReleaseEvent(self, event: Any) -> None:  # noqa: N802
        """Open it large."""
        super().mouseReleaseEvent(event)
        if self.pixmap.isNull():
            return
        dialog = QDialog(self)
        dialog.setWindowTitle(self.objectName().replace("_", " "))
        area, label = QScrollArea(), QLabel()
        label.setPixmap(self.pixmap)
        area.setWidget(label)
        QVBoxLayout(dialog).addWidget(area)
        dialog.resize(min(1200, self.pixmap.width() + 50), min(850, self.pixmap.height() + 50))
        dialog.show()
        self.window_of_its_own = dialog
