"""Formats in which the nuclei of a layer can be saved, as the dialog offers them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from napari_deepretina._widgets import io
from napari_deepretina._widgets.document_view import view_of
from napari_deepretina.document.store import SUFFIX
from napari_deepretina.errors import UserError


@dataclass(frozen=True)
class Format:
    """One line of the dialog: its words, how the file's name ends, and what writes it."""

    title: str
    ending: str
    write: Callable[[str, Any, dict[str, Any]], list[str]]

    @property
    def filter(self) -> str:
        """As Qt's dialog wants it."""
        return f"{self.title} (*{self.ending})"

    def named(self, path: str) -> str:
        """The path with this format's ending, in place of another format's."""
        if path.lower().endswith(self.ending):
            return path
        for other in sorted((f.ending for f in FORMATS), key=len, reverse=True):
            if path.lower().endswith(other):
                return f"{path[: -len(other)]}{self.ending}"
        return f"{path}{self.ending}"


FORMATS = (
    Format("Labels as TIFF", ".tif", io.write_labels_tiff),
    Format("Table", "_table.csv", io.write_labels_table),
    Format("Run lengths", ".csv", io.write_labels_rle),
    Format("COCO", ".json", io.write_labels_coco),
    Format("COCO with polygons", "_polygons.json", io.write_labels_polygons),
    Format("ImageJ ROIs", ".zip", io.write_labels_rois),
    Format("GeoJSON for QuPath", ".geojson", io.write_labels_geojson),
    Format("Nuclei with their history, to go on later", SUFFIX, io.write_document),
)
FILTERS = ";;".join(f.filter for f in FORMATS)
"""The chosen one decides the format, whatever the name ends with."""


def export(layer: Any, path: str, chosen: str = "") -> str:
    """Save the nuclei of a layer; the path that was written.

    Parameters
    ----------
    chosen : filter of the dialog; by default the end of the name decides.

    Raises
    ------
    UserError
        If the name tells no format, or the file cannot be written.
    """
    if (view := view_of(layer)) is not None:
        view.sync()
    if chosen:
        form = next(f for f in FORMATS if f.filter == chosen)
        path = form.named(path)
    else:
        fitting = [f for f in FORMATS if path.lower().replace(".tiff", ".tif").endswith(f.ending)]
        if not fitting:
            raise UserError(f"{path!r}: end the name with {', '.join(f.ending for f in FORMATS)}")
        form = max(fitting, key=lambda f: len(f.ending))
    data, meta, _ = layer.as_layer_data_tuple()
    form.write(path, data, meta)
    return path
