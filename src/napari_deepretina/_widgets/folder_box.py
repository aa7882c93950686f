"""Many images from a folder, without opening them in the viewer."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import napari.viewer
from magicgui.widgets import CheckBox, ComboBox, FileEdit
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtWidgets import QComboBox, QFormLayout, QVBoxLayout, QWidget

from napari_deepretina._widgets.folder_steps import Asked, FolderSteps
from napari_deepretina._widgets.memory import Remembered
from napari_deepretina._widgets.running import RunBox
from napari_deepretina._widgets.safe_import import import_torch
from napari_deepretina.data.channel_names import COLOURS
from napari_deepretina.data.picture import Wanted
from napari_deepretina.errors import UserError
from napari_deepretina.files import short_path
from napari_deepretina.inference.steps import Progress

AS_FOUND = "as found"
AXES = [("as the files say", ""), *((f"{n}, {a}", a) for n, a in (
    ("channels first", "CYX"), ("channels last", "YXC"), ("z-stacks", "ZYX"), ("time series", "TYX"),
    ("z-stacks with channels", "ZCYX"), ("time series with channels", "TCYX"),
))]  # fmt: skip
BESIDE, INTO = "beside the images", "in a folder"
FORMATS = {
    "table of nuclei (CSV)": "features",
    "pictures with outlines": "overlay",
    "ImageJ ROIs": "rois",
    "GeoJSON for QuPath": "geojson",
    "COCO JSON": "coco",
    "run lengths (CSV)": "rle",
}


class FolderBox(QWidget):
    """A form and a Run button; the settings are those of the Segment widget."""

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        settings: Callable[[], dict[str, Any]],
        segment: Callable[[Any], None],
        busy: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._settings = settings
        self.folder = FileEdit(mode="d", label="folder", nullable=True)
        self.place = ComboBox(label="results", choices=[BESIDE, INTO], value=BESIDE)
        self.out = FileEdit(mode="d", label="into", nullable=True)
        self.formats = {kind: CheckBox(text=text, value=False) for text, kind in FORMATS.items()}
        self.anew = CheckBox(text="do all anew, replacing results", value=False)
        form = QFormLayout()
        rows = {"folder": self.folder, "results": self.place, "out": self.out}
        for name, control in rows.items():
            control.native.setObjectName(name)
            form.addRow(control.label, control.native)
        for kind, box in self.formats.items():
            box.native.setObjectName(kind)
            form.addRow("and" if kind == "features" else "", box.native)
        self.anew.native.setObjectName("anew")
        form.addRow("", self.anew.native)
        self.channel = QComboBox()
        self.channel.setEditable(True)
        self.channel.setObjectName("folder_channel")
        self.channel.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.channel.addItem(AS_FOUND)
        form.insertRow(1, "channel", self.channel)
        self.axes = ComboBox(label="axes", choices=AXES)
        self.axes.native.setObjectName("axes")
        form.insertRow(2, "axes", self.axes.native)
        self.folder.changed.connect(self._list_channels)
        self.place.changed.connect(self._show_out)
        self.box = RunBox(
            viewer,
            "Labels and a summary table are written; images that are done are left out.",
            text="Segment all",
            name="run_folder",
        )
        self.box.asked.connect(self.run)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addWidget(self.box)
        self.steps = FolderSteps(viewer, self.box, self.asked, segment, busy)
        layout.addWidget(self.steps)
        self._form = form
        self._show_out()
        kept = {"folder": self.folder, "place": self.place, "out": self.out} | self.formats
        self._remembered = Remembered(self, "folder", kept)
        self._remembered.restore()

    def _list_channels(self, _: Any = None) -> None:
        """Offer the channels of the folder's first image, read off the GUI thread."""
        folder = self.folder.value
        if folder is None or not Path(folder).is_dir():
            return
        worker = create_worker(channels_in, Path(folder))
        worker.returned.connect(self._show_channels)
        worker.start()

    def _show_channels(self, names: list[str]) -> None:
        text = self.channel.currentText()
        self.channel.clear()
        self.channel.addItems([AS_FOUND, *names])
        self.channel.setCurrentText(text)

    def asked(self) -> Asked:
        """What the form asks for.

        Raises
        ------
        UserError
            If a folder is missing.
        """
        folder, out = self.folder.value, self.out.value
        beside = self.place.value == BESIDE
        if folder is None or not Path(folder).is_dir():
            raise UserError("choose a folder with images first")
        if not beside and out is None:
            raise UserError("choose the folder where results go")
        formats = ["labels", *(kind for kind, box in self.formats.items() if box.value)]
        values = self._settings()
        if (channel := self.channel.currentText().strip()) not in ("", AS_FOUND):
            values["channel"] = channel
        where = Path(folder) if beside else Path(out)
        return Asked(Path(folder), where, formats, beside, values, str(self.axes.value))

    def _show_out(self, _: Any = None) -> None:
        shown = self.place.value == INTO
        self.out.native.setVisible(shown)
        self._form.labelForField(self.out.native).setVisible(shown)

    def run(self) -> None:
        """Segment the folder's images; returns at once."""
        try:
            asked = self.asked()
        except UserError as error:
            self.box.say(str(error), show_error)
            return
        self.box.start(
            f"Segment {short_path(asked.folder)}",
            folder_job,
            asked,
            "overwrite" if self.anew.value else "resume",
            done=self._on_done,
            cancelled=self._on_cancelled,
        )

    def cancel(self) -> None:
        """Stop after the images that are under way; those done stay."""
        self.box.cancel()

    def _on_done(self, result: Any) -> None:
        nuclei = sum(r.summary["nuclei"] for r in result.done.values())
        message = f"{nuclei} nuclei in {len(result.done)} images"
        if result.before:
            message += f", {result.before} of them done before"
        summary = next((p for p in result.written if p.name == "summary.csv"), None)
        if summary is not None:
            message += f" → {short_path(summary)}"
        message += "".join(f"\n{note}" for note in result.notes)
        for where, reason in result.skipped.items():
            message += f"\nskipped {Path(where).name}: {reason}"
        self.box.say(message, show_warning if result.skipped else show_info)

    def _on_cancelled(self, result: Any) -> None:
        self.box.say(f"Cancelled: {len(result.done)} images are done. Run goes on with the rest.", show_info)


def channels_in(folder: Path) -> list[str]:
    """Names or numbers of the channels of a folder's first image; none if it has but one."""
    from napari_deepretina.inference.sources import find_sources

    try:
        picture = find_sources([str(folder)])[0].read()
    except UserError:
        return []
    count = picture.channel_count
    if count < 2:
        return []
    if len(picture.channels) == count:
        return list(picture.channels)
    return list(COLOURS[:count]) if count == len(COLOURS) else [str(k) for k in range(count)]


def folder_job(asked: Asked, standing: str) -> Generator[Any, None, Any]:
    """The command line's segmentation of a folder, in steps; returns a BatchResult."""
    yield Progress(0.0, "starting PyTorch")
    import_torch()
    from napari_deepretina.inference.batch import segment_files
    from napari_deepretina.inference.results import Places
    from napari_deepretina.inference.settings import make_settings
    from napari_deepretina.inference.sources import Looking, find_sources

    notes: list[str] = []
    inputs = [str(asked.folder)]
    sources = find_sources(inputs, Looking(wanted=Wanted(asked.axes)), notes)
    told = {
        "axes": asked.axes, "inputs": inputs, "formats": ",".join(asked.formats), "beside": asked.beside
    }  # fmt: skip
    places = Places(asked.out, asked.formats, asked.beside)
    settings = make_settings(**asked.values)
    result = yield from segment_files(sources, places, settings, standing=standing, asked=told)
    result.notes += notes
    return result
