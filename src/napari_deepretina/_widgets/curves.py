"""Loss and score while a run goes, drawn with nothing but Qt."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QWidget

COLOURS = {"train": "#6c9fe0", "validation": "#e0a13a", "score": "#63c26a"}


class CurvesWidget(QWidget):
    """Lines over steps: losses on the left axis, from 0 up; the score on the right one, 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("curves")
        self.setMinimumHeight(150)
        self._curves: dict[str, list[tuple[int, float]]] = {}
        self._total = 1
        self._text = QColor("#aaaaaa")

    def show_curves(self, curves: dict[str, list[tuple[int, float]]], total: int, text: str) -> None:
        """Draw these, up to a number of steps; `text` is the colour of axes and words."""
        self._curves, self._total, self._text = curves, max(1, total), QColor(text)
        self.update()

    def paintEvent(self, event: Any) -> None:  # noqa: N802
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = QRectF(self.rect()).adjusted(34, 18, -30, -18)
        painter.setPen(QPen(self._text, 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        painter.drawLine(area.bottomLeft(), area.topLeft())
        losses = [v for name in ("train", "validation") for _, v in self._curves.get(name, ())]
        top = max(losses[len(losses) // 20 :] or [1.0])
        self._word(painter, 0, area.top() - 8, 32, f"{top:.2g}")
        self._word(painter, 0, area.bottom() - 8, 32, "0")
        self._word(painter, area.right() + 4, area.top() - 8, 26, "1")
        self._word(painter, area.right() - 40, area.bottom() + 2, 66, f"step {self._total}")
        left = area.left() + 4
        for name, colour in COLOURS.items():
            points = self._curves.get(name, [])
            painter.setPen(QPen(QColor(colour), 2))
            told = f"{name} {points[-1][1]:.3f}" if points else name
            self._word(painter, left, 0, 110, told)
            left += 112
            scale = 1.0 if name == "score" else top
            line = [
                QPointF(
                    area.left() + area.width() * step / self._total,
                    area.bottom() - area.height() * min(1.0, value / scale),
                )
                for step, value in points
            ]
            if len(line) > 1:
                painter.drawPolyline(QPolygonF(line))
            for point in line if name != "train" else line[-1:]:
                painter.drawEllipse(point, 2.5, 2.5)
        painter.end()

    @staticmethod
    def _word(painter: QPainter, x: float, y: float, width: float, text: str) -> None:
        painter.drawText(QRectF(x, y, width, 16), Qt.AlignmentFlag.AlignLeft, text)
