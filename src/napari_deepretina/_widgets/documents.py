"""Documents and layers on disk: files of a person's own, and what was not saved when napari ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QWidget

from napari_deepretina._widgets.own_labels import KEY, RAW
from napari_deepretina._widgets.placing import bright_colours
from napari_deepretina.document import Document
from napari_deepretina.document.store import SUFFIX, load
from napari_deepretina.errors import UserError
from napari_deepretina.files import remove
from napari_deepretina.lock import is_at_work, own_process

PLACED = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")


def unsaved_folder() -> Path:
    """Where documents lie that a person works on; it need not exist."""
    import platformdirs

    return Path(platformdirs.user_data_dir("napari-deepretina", appauthor=False)) / "unsaved"


def told_of(layer: Any) -> dict[str, Any]:
    """What a document's file says of its layer: name, place, how it was made, and by which process."""
    placed = {name: _plain(getattr(layer, name)) for name in PLACED}
    mark = {k: v for k, v in (layer.metadata.get(KEY) or {}).items() if _fits_json(v)}
    return {"name": layer.name, "placed": placed, "mark": mark, "process": own_process()}


def layer_of(path: Path) -> tuple[Any, dict[str, Any], str]:
    """A document's file as data of a labels layer; its view is made when a window first asks for it.

    Raises
    ------
    UserError
        If the file cannot be read.
    """
    document, told = load(path)
    placed = told.get("placed") or {}
    meta: dict[str, Any] = {
        "name": told.get("name", path.stem),
        "metadata": {RAW: document, KEY: told.get("mark") or {}},
        "features": document.known(),
        "colormap": bright_colours(),
        "opacity": 1.0,
        **{k: np.array(v) if k == "affine" else v for k, v in placed.items()},
    }
    return np.array(document.labels), meta, "labels"


def left_behind() -> dict[Path, str]:
    """Documents of sessions that are over, newest last, and what is in them; damaged ones are left out."""
    found = {}
    for path in sorted(unsaved_folder().glob(f"*{SUFFIX}"), key=lambda p: p.stat().st_mtime):
        try:
            document, told = load(path)
        except UserError:
            continue
        if not is_at_work(str(told.get("process"))):
            done, every = document.reviewed()
            found[path] = f"{told.get('name', 'nuclei')}: {done} of {every} nuclei reviewed."
    return found


class LeftBehind(QWidget):
    """A line that offers work of an earlier session; hidden where there is none.

    ``opened`` reports the file that a person wants back.
    """

    opened = Signal(object)
    handled: ClassVar[set[Path]] = set()
    """Files that a person opened or discarded in any window."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("left_behind")
        self._found = left_behind()
        self._paths = list(self._found)
        self._text = QLabel("")
        self._text.setWordWrap(True)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._text, stretch=1)
        for name, text, action in (("bring_back", "Open", self._open), ("discard", "Discard", self._discard)):
            button = QPushButton(text)
            button.setObjectName(name)
            button.clicked.connect(action)
            layout.addWidget(button)
        self._show()

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Another window may have seen to it meanwhile."""
        super().showEvent(event)
        self._show()

    def _show(self) -> None:
        self._paths = [p for p in self._paths if p not in self.handled and p.exists()]
        self.setVisible(bool(self._paths))
        if self._paths:
            more = f" ({len(self._paths) - 1} more)" if len(self._paths) > 1 else ""
            self._text.setText(f"Unsaved work on {self._found[self._paths[-1]]}{more}")

    def _open(self) -> None:
        path = self._paths.pop()
        self.handled.add(path)
        self.opened.emit(path)
        self._show()

    def _discard(self) -> None:
        self.handled.add(self._paths[-1])
        remove(self._paths.pop())
        self._show()


def as_document(labels: Any, meta: dict[str, Any]) -> Document:
    """The document of a layer's data, with what its features know of a layer that has none."""
    held = (meta.get("metadata") or {}).get(RAW)
    document = held if isinstance(held, Document) else getattr(held, "document", None)
    if not isinstance(document, Document):
        raise UserError("only nuclei that Segment found can be saved with their history: save them as TIFF")
    if not np.array_equal(document.labels, labels):
        raise UserError("the labels were changed by another program meanwhile: save them as TIFF")
    return document


def _plain(value: Any) -> Any:
    if hasattr(value, "affine_matrix"):
        value = value.affine_matrix
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value if isinstance(value, int | float | str) else str(value)


def _fits_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _fits_json(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(_fits_json, value))
    return isinstance(value, str | int | float | bool | type(None))
