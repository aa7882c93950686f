"""Docks that fit any screen: they scroll, and long names in lists are cut and not the window widened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QScrollArea,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

SHORTEST = 8
"""Letters that a list has room for, at least."""


class ScrollArea(QScrollArea):
    """Scrolls up and down only: it is as wide as what it holds needs at least."""

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidgetResizable(True)
        self.setWidget(content)
        content.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        """Follow the content when it needs more width."""
        if watched is self.widget() and event.type() in (QEvent.Type.Resize, QEvent.Type.LayoutRequest):
            bar = self.verticalScrollBar().sizeHint().width()
            self.setMinimumWidth(self.widget().minimumSizeHint().width() + bar)
        return bool(super().eventFilter(watched, event))


def scrolled(widget: QWidget) -> QVBoxLayout:
    """A column inside a widget that scrolls where it is higher than the widget."""
    content = QWidget()
    outer = QVBoxLayout(widget)
    outer.setContentsMargins(0, 0, 0, 0)
    outer.addWidget(ScrollArea(content))
    return QVBoxLayout(content)


def column() -> tuple[ScrollArea, QVBoxLayout]:
    """A column that scrolls, to be put somewhere, and the layout to fill."""
    content = QWidget()
    return ScrollArea(content), QVBoxLayout(content)


def line(name: str, *, lines: int = 1) -> QLabel:
    """An empty text of so many lines, so that nothing jumps when it is filled."""
    label = QLabel("")
    label.setObjectName(name)
    label.setWordWrap(lines > 1)
    label.setMinimumHeight(lines * label.fontMetrics().lineSpacing())
    return label


def tab_in_order(widget: QWidget) -> None:
    """Let the Tab key go through controls as the eye does: from top to bottom, from left to right."""
    last: QWidget | None = None
    for control in in_order(widget):
        if control.focusPolicy() & Qt.FocusPolicy.TabFocus:
            if last is not None:
                QWidget.setTabOrder(last, control)
            last = control


def in_order(widget: QWidget) -> Iterator[QWidget]:
    """A widget's controls, in the order in which its layouts hold them."""
    if isinstance(widget, QTabWidget):
        yield widget.tabBar()
        for k in range(widget.count()):
            yield from in_order(widget.widget(k))
    elif isinstance(widget, QScrollArea):
        yield from in_order(widget.widget())
    elif widget.layout() is None or isinstance(widget, QComboBox | QAbstractSpinBox):
        yield widget
    else:
        yield from _in_layout(widget.layout())


def _in_layout(layout: QLayout) -> Iterator[QWidget]:
    for k in range(layout.count()):
        item = layout.itemAt(k)
        if item.widget() is not None:
            yield from in_order(item.widget())
        elif item.layout() is not None:
            yield from _in_layout(item.layout())


def row(parts: Sequence[QWidget]) -> QWidget:
    """Controls side by side; the first takes what room there is."""
    beside = QWidget()
    layout = QHBoxLayout(beside)
    layout.setContentsMargins(0, 0, 0, 0)
    for k, part in enumerate(parts):
        layout.addWidget(part, 1 if k == 0 else 0)
    return beside


def elide_lists(widget: Any) -> None:
    """Let lists cut long names rather than widen the window; the whole name is shown when they open."""
    for box in widget.findChildren(QComboBox):
        box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        box.setMinimumContentsLength(SHORTEST)
