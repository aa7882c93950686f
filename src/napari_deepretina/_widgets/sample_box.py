"""Layers kept as training samples, and the list of those that are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import napari.viewer
import tifffile
from magicgui.widgets import ComboBox
from napari.layers import Image, Labels
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFormLayout,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_deepretina._widgets.layer_samples import SampleKeeper
from napari_deepretina._widgets.own_labels import KEY
from napari_deepretina._widgets.placing import step_of
from napari_deepretina._widgets.run_layers import of_a_run
from napari_deepretina.data.project import Project
from napari_deepretina.errors import UserError

WHOLE, EDITED = "whole frame", "edited regions"


class SampleBox(QWidget):
    """Chooses an image and its labels, keeps them as a sample, and lists what is kept.

    Attributes
    ----------
    image, labels, part : of what is kept next.
    keeper : writes the samples, and writes them again as they are edited.

    Parameters
    ----------
    guarded : runs an action and shows its UserError.
    say : shows a message.
    kept : called when a sample was kept.
    corner : a widget for the upper right corner.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        project: Project,
        *,
        guarded: Callable[[Callable[[], None]], None],
        say: Callable[[str], None],
        kept: Callable[[], None],
        corner: QWidget,
    ) -> None:
        super().__init__()
        self._viewer, self._say, self._kept = viewer, say, kept
        self.keeper = SampleKeeper(self, project)
        self.image = ComboBox(label="image", choices=lambda _: self._names(Image))
        self.labels = ComboBox(label="labels", choices=lambda _: self._names(Labels))
        self.part = ComboBox(label="keep", choices=[WHOLE, EDITED])
        form = QFormLayout()
        for control in (self.image, self.labels, self.part):
            form.addRow(control.label, control.native)
            control.native.setObjectName(control.label)
        above = QHBoxLayout()
        above.addLayout(form, 1)
        above.addWidget(corner, 0, Qt.AlignmentFlag.AlignTop)
        self.list = QListWidget()
        self.list.setObjectName("samples")
        self.list.setFixedHeight(3 * self.list.fontMetrics().lineSpacing() + 12)
        self.list.itemDoubleClicked.connect(lambda _: guarded(self.show_chosen))
        buttons = QHBoxLayout()
        for name, text, action in (
            ("add_layers", "Add image + labels", self.add_layers),
            ("show_sample", "Show", self.show_chosen),
            ("remove_sample", "Remove", self.remove_chosen),
        ):
            button = QPushButton(text)
            button.setObjectName(name)
            button.clicked.connect(lambda _=False, action=action: guarded(action))
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(above)
        layout.addLayout(buttons)
        layout.addWidget(self.list)
        guarded(self.refresh)

    # ---- layers ----

    def _names(self, kind: Any) -> list[str]:
        return [x.name for x in self._viewer.layers if isinstance(x, kind) and not of_a_run(x)]

    def refresh_layers(self, event: Any = None) -> None:
        """Follow the viewer's layers."""
        self.image.reset_choices()
        self.labels.reset_choices()

    def follow_selection(self, event: Any = None) -> None:
        """Labels that are selected are what a person means to keep, with the image they were made from."""
        active = self._viewer.layers.selection.active
        if not isinstance(active, Labels) or of_a_run(active):
            return
        self.labels.value = active.name
        mark = active.metadata.get(KEY)
        image = mark.get("image") if isinstance(mark, dict) else None
        if image in self._names(Image):
            self.image.value = image

    def _layer(self, name: str | None, kind: Any) -> Any:
        return next(
            (x for x in self._viewer.layers if x.name == name and isinstance(x, kind) and not of_a_run(x)),
            None,
        )

    # ---- samples ----

    def add_layers(self) -> None:
        """Keep the chosen image and labels as a training sample, on disk at once."""
        image, labels = self._layer(self.image.value, Image), self._layer(self.labels.value, Labels)
        if image is None or labels is None:
            raise UserError("choose an image layer and a labels layer first")
        steps = step_of(self._viewer, image), step_of(self._viewer, labels)
        name = self.keeper.keep(image, labels, steps, edited_only=self.part.value == EDITED)
        self.refresh()
        self._kept()
        count = self.list.count()
        many = "sample" if count == 1 else "samples"
        self._say(f"Kept as {name}; {count} {many} in the project. Further strokes are kept by themselves.")

    def refresh(self) -> None:
        """List the samples of the project."""
        chosen = self._chosen()
        self.list.clear()
        for name, told in self.keeper.project.samples().items():
            shape = "×".join(map(str, told.get("shape", [])[::-1]))
            nuclei = told.get("nuclei", 0)
            text = f"{name}: {nuclei} {'nucleus' if nuclei == 1 else 'nuclei'}, {shape} px"
            item = QListWidgetItem(text)
            item.setData(Qt.ItemDataRole.UserRole, name)
            self.list.addItem(item)
            if name == chosen:
                self.list.setCurrentItem(item)

    def _chosen(self) -> str | None:
        item = self.list.currentItem()
        return None if item is None else str(item.data(Qt.ItemDataRole.UserRole))

    def _needs_chosen(self) -> str:
        name = self._chosen()
        if name is None:
            raise UserError("choose a sample in the list first")
        return name

    def show_chosen(self) -> None:
        """Open the chosen sample as an image and labels."""
        name = self._needs_chosen()
        folder = self.keeper.project.folder
        try:
            image, labels = (tifffile.imread(folder / kind / f"{name}.tif") for kind in ("images", "labels"))
        except (OSError, ValueError) as error:
            raise UserError(f"sample {name} cannot be read: {error}") from None
        self._viewer.add_image(image, name=name, rgb=image.ndim == 3)
        self._viewer.add_labels(labels, name=f"{name} labels").contour = 2

    def remove_chosen(self) -> None:
        """Take the chosen sample out of the project; its files are put aside, not deleted."""
        name = self._needs_chosen()
        aside = self.keeper.forget(name)
        self.refresh()
        self._say(f"{name} is not trained on any more. Its files lie in {aside}.")
