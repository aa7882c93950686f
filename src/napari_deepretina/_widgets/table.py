"""Tables: columns of arrays, sorted by a click on a header."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QApplication, QHeaderView, QTableView


class _Columns(QAbstractTableModel):
    """Equally long arrays, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.columns: dict[str, np.ndarray] = {}

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        return len(next(iter(self.columns.values()), ()))

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        return len(self.columns)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        value = list(self.columns.values())[index.column()][index.row()]
        if isinstance(value, float | np.floating):
            return "" if np.isnan(value) else f"{value:.3g}"
        return str(value)

    def headerData(self, section: int, orientation: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: N802
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return list(self.columns)[section]
        return None

    def sort(self, column: int, order: Any = Qt.SortOrder.AscendingOrder) -> None:
        keys = list(self.columns.values())[column]
        rows = np.argsort(keys, kind="stable")
        rows = rows if order == Qt.SortOrder.AscendingOrder else rows[::-1]
        self.show({name: values[rows] for name, values in self.columns.items()})

    def show(self, columns: dict[str, np.ndarray]) -> None:
        self.beginResetModel()
        self.columns = columns
        self.endResetModel()


class Table(QTableView):
    """Shows equally long columns; ``picked`` tells the row that is clicked, as a dict."""

    picked = Signal(object)
    wide = 150
    """Pixels of columns of text."""

    def __init__(self) -> None:
        super().__init__()
        self._columns = _Columns()
        self.setModel(self._columns)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.verticalHeader().setVisible(False)
        self.verticalHeader().setDefaultSectionSize(20)
        self.horizontalHeader().sectionClicked.connect(self._sort_by)
        self.clicked.connect(lambda index: self.picked.emit(self.row_at(index.row())))
        self.selectionModel().currentRowChanged.connect(self._on_row)
        self._marking = False
        self._sorted: tuple[str, bool] | None = None

    def show_columns(self, columns: dict[str, np.ndarray]) -> None:
        """Show other columns; rows in the order given, or as a person sorted them."""
        self._marking = True
        try:
            self._columns.show(columns)
            self._sort()
        finally:
            self._marking = False
        for place, name in enumerate(columns):
            if columns[name].dtype == object:
                self.setColumnWidth(place, self.wide)

    def row_at(self, place: int) -> dict[str, Any]:
        """The values of a row, from the top."""
        return {k: v[place] for k, v in self._columns.columns.items()}

    def _sort_by(self, section: int) -> None:
        name = list(self._columns.columns)[section]
        self._sorted = name, self._sorted != (name, True)
        self._sort()

    def _sort(self) -> None:
        """Keep the rows sorted by the header that was clicked last."""
        names = list(self._columns.columns)
        if self._sorted is not None and self._sorted[0] in names:
            ascending = Qt.SortOrder.AscendingOrder if self._sorted[1] else Qt.SortOrder.DescendingOrder
            self._columns.sort(names.index(self._sorted[0]), ascending)

    def _on_row(self, row: QModelIndex, _: QModelIndex) -> None:
        """An arrow key moved to another row; clicks report themselves."""
        if not self._marking and row.isValid() and QApplication.mouseButtons() == Qt.MouseButton.NoButton:
            self.picked.emit(self.row_at(row.row()))


class NucleiTable(Table):
    """A table with a column ``index``, ids of nuclei; ``chosen`` reports that of a row that is clicked."""

    chosen = Signal(int)
    wide = 80

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("nuclei")
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.horizontalHeader().setResizeContentsPrecision(20)
        self.picked.connect(lambda row: self.chosen.emit(int(row["index"])))

    @property
    def labels(self) -> np.ndarray:
        """Ids of the rows, from top to bottom."""
        return self._columns.columns.get("index", np.zeros(0, np.int64))

    def row(self, label: int) -> dict[str, Any] | None:
        """The values of one nucleus, None if it is not there."""
        where = np.flatnonzero(self.labels == label)
        return self.row_at(int(where[0])) if len(where) else None

    def mark(self, label: int) -> None:
        """Select the row of a nucleus and bring it into sight."""
        where = np.flatnonzero(self.labels == label)
        self._marking = True
        try:
            if len(where):
                self.selectRow(int(where[0]))
            else:
                self.clearSelection()
        finally:
            self._marking = False
