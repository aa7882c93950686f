"""Measurements in the window: which channels, colours by a column, and a range chosen in its histogram."""

from __future__ import annotations

from typing import Any

import numpy as np
from magicgui.widgets import ComboBox
from numpy.typing import NDArray
from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtGui import QColor, QPainter
from qtpy.QtWidgets import (
    QFormLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt import QLabeledDoubleRangeSlider

from napari_deepretina._widgets.document_view import DocumentView
from napari_deepretina._widgets.measuring import measurable
from napari_deepretina._widgets.placing import bright_colours

NONE = "each its own"
BINS = 40
GREY = (0.35, 0.35, 0.35, 1.0)
"""Nuclei outside the range that is chosen."""


class Histogram(QWidget):
    """Bars of a column's values; those in the range are bright."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("histogram")
        self.setMinimumHeight(70)
        self._counts, self._edges = np.zeros(0), np.zeros(1)
        self._range = (0.0, 0.0)

    def show_values(self, values: NDArray[np.float64]) -> None:
        """Count these values."""
        self._counts, self._edges = np.histogram(values, BINS) if len(values) else (np.zeros(0), np.zeros(1))
        self.update()

    def show_range(self, low: float, high: float) -> None:
        """Brighten the bars of a range."""
        self._range = (low, high)
        self.update()

    def paintEvent(self, _: Any) -> None:  # noqa: N802 - Qt's name
        """Draw the bars."""
        painter = QPainter(self)
        top = max(1.0, float(self._counts.max(initial=0)))
        width = self.width() / max(1, len(self._counts))
        middles = (self._edges[:-1] + self._edges[1:]) / 2
        for k, count in enumerate(self._counts.tolist()):
            inside = self._range[0] <= middles[k] <= self._range[1]
            height = self.height() * count / top
            bar = QRectF(k * width, self.height() - height, max(1.0, width - 1), height)
            painter.fillRect(bar, QColor("#4cc9f0") if inside else QColor("#5a5f66"))
        painter.end()


class MeasureBox(QWidget):
    """The third tab of Tune.

    ``ranged`` reports the ids in the range that is chosen, None where all are.
    """

    ranged = Signal(object)

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self._view: DocumentView | None = None
        self._busy = False
        self.channels = QListWidget()
        self.channels.setObjectName("channels")
        self.channels.setFixedHeight(90)
        self.channels.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.channels.setToolTip("Image layers whose intensities are measured in each nucleus")
        self.channels.itemChanged.connect(self._on_ticked)
        self.colour = ComboBox(choices=[NONE])
        self.colour.native.setObjectName("colour_by")
        self.colour.tooltip = "Colour each nucleus by one of its measurements"
        self.colour.changed.connect(self._on_column)
        self.histogram = Histogram()
        self.range = QLabeledDoubleRangeSlider(Qt.Orientation.Horizontal)
        self.range.setObjectName("range")
        self.range.valueChanged.connect(self._on_range)
        self.told = QLabel("")
        self.told.setObjectName("in_range")
        form = QFormLayout()
        form.addRow("intensities of", self.channels)
        form.addRow("colour by", self.colour.native)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.histogram)
        layout.addWidget(self.range)
        layout.addWidget(self.told)
        layout.addStretch(1)

    def show_view(self, view: DocumentView | None) -> None:
        """Measure this result from now on."""
        if view is not self._view and self._view is not None and self.refresh in self._view.listeners:
            self._view.listeners.remove(self.refresh)
        if view is not None and view is not self._view:
            view.listeners.append(self.refresh)
        self._view = view
        self.list_images()
        self.refresh()

    def list_images(self, _: Any = None) -> None:
        """Offer the image layers that fit the nuclei."""
        self._busy = True
        self.channels.clear()
        images = measurable(self._viewer.layers, self._view.layer) if self._view is not None else []
        for image in images:
            item = QListWidgetItem(image.name)
            item.setData(Qt.ItemDataRole.UserRole, image)
            ticked = self._view is not None and image in self._view.images
            item.setCheckState(Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked)
            self.channels.addItem(item)
        self._busy = False

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Large results are measured when somebody looks."""
        super().showEvent(event)
        if self._view is not None and not self._view.measured:
            self._view.measure(self._view.images)

    def _on_ticked(self, _: Any = None) -> None:
        if self._busy or self._view is None:
            return
        items = [self.channels.item(k) for k in range(self.channels.count())]
        ticked = [i for i in items if i.checkState() == Qt.CheckState.Checked]
        self._view.measure([i.data(Qt.ItemDataRole.UserRole) for i in ticked])

    def refresh(self) -> None:
        """Follow the nuclei: columns, histogram and colours."""
        columns = [] if self._view is None else _numbers(self._view.layer.features)
        if (NONE, *columns) != tuple(self.colour.choices):
            self.colour.choices = [NONE, *columns]
        self._show(keep_range=True)

    def _on_column(self, _: Any = None) -> None:
        self._show(keep_range=False)

    def _values(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ids, and the chosen column of those that have a value."""
        if self._view is None or self.colour.value in (None, NONE):
            return np.zeros(0, np.int64), np.zeros(0)
        features = self._view.layer.features
        if self.colour.value not in features:
            return np.zeros(0, np.int64), np.zeros(0)
        ids, values = features["index"].to_numpy(), features[self.colour.value].to_numpy(float)
        known = np.isfinite(values)
        return ids[known], values[known]

    def _show(self, *, keep_range: bool) -> None:
        ids, values = self._values()
        for widget in (self.histogram, self.range, self.told):
            widget.setVisible(len(ids) > 0)
        self.histogram.show_values(values)
        if len(ids):
            low, high = float(values.min()), float(values.max())
            whole = not keep_range or self.range.value() == (self.range.minimum(), self.range.maximum())
            self._busy = True
            self.range.setRange(low, max(high, low + 1e-9))
            if whole:
                self.range.setValue((low, max(high, low + 1e-9)))
            self._busy = False
        self._on_range()

    def _on_range(self, _: Any = None) -> None:
        if self._busy or self._view is None:
            return
        ids, values = self._values()
        if not len(ids):
            self._paint({})
            self.ranged.emit(None)
            return
        low, high = self.range.value()
        inside = (values >= low) & (values <= high)
        self.histogram.show_range(low, high)
        self.told.setText(f"{np.count_nonzero(inside)} of {len(ids)} nuclei in the range")
        share = (values - values.min()) / max(np.ptp(values), 1e-12)
        from napari.utils.colormaps import AVAILABLE_COLORMAPS

        colours = AVAILABLE_COLORMAPS["turbo"].map(share)
        self._paint(
            {i: tuple(c) if k else GREY for i, c, k in zip(ids.tolist(), colours, inside, strict=True)}
        )
        self.ranged.emit(None if inside.all() else frozenset(ids[inside].tolist()))

    def _paint(self, colours: dict[int, Any]) -> None:
        """Colour the layer's nuclei; none gives each its own colour again."""
        from napari.utils.colormaps import DirectLabelColormap

        assert self._view is not None
        layer = self._view.layer
        direct = isinstance(layer.colormap, DirectLabelColormap)
        if colours:
            every: dict[Any, Any] = {None: GREY, 0: "transparent", **colours}
            layer.colormap = DirectLabelColormap(color_dict=every)
        elif direct:
            layer.colormap = bright_colours()


def _numbers(features: Any) -> list[str]:
    """Columns that hold numbers."""
    return [c for c in features.columns if c != "index" and features[c].dtype.kind in "if"]
