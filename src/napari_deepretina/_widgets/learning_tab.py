"""The tab of Inspect that shows what training would learn from the image and a truth."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import ComboBox
from napari.layers import Labels
from qtpy.QtWidgets import QLabel, QPushButton, QVBoxLayout, QWidget

from napari_deepretina.errors import UserError
from napari_deepretina.inference.steps import Progress

if TYPE_CHECKING:
    from napari_deepretina._widgets.inspect import InspectWidget

HINT = "Run first; then choose labels that are right."


class LearningTab(QWidget):
    """Anchors that are positive, negative and neutral, and the regions of a training step, as layers.

    Attributes
    ----------
    truth : chooses the labels layer to learn from.
    """

    def __init__(self, owner: InspectWidget) -> None:
        super().__init__()
        self._owner = owner
        self.truth = ComboBox(label="labels to learn from", choices=lambda _: owner._names(Labels))
        self.truth.native.setObjectName("learnt_from")
        button = QPushButton("Show what would be learnt")
        button.setObjectName("show_learning")
        button.clicked.connect(lambda _=False: owner._guarded(self.look))
        self.told = QLabel(HINT)
        self.told.setObjectName("learning_told")
        self.told.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.addWidget(QLabel(self.truth.label))
        layout.addWidget(self.truth.native)
        layout.addWidget(button)
        layout.addWidget(self.told)
        layout.addStretch()

    def look(self) -> None:
        """Match anchors and proposals of the inspected image with the truth; returns at once."""
        owner = self._owner
        layer = owner._layer(self.truth.value)
        if owner.steps is None or layer is None:
            raise UserError("run first, and choose a labels layer that is right")
        owner._free()
        owner.box.start(
            "What would be learnt", learning_job, owner.steps.inspection, np.asarray(layer.data),
            done=self._show,
        )  # fmt: skip

    def _show(self, learning: Any) -> None:
        steps = self._owner.steps
        if steps is None:
            return
        steps.add_learning(learning)
        n = learning.counts
        told = (
            f"Anchors: {n['positive']} positive (green), {n['negative']} negative (red), {n['neutral']} "
            f"neutral (grey, not learnt from). A step draws {int(learning.drawn.sum())} of them, and "
            f"{n['positive regions']} positive and {n['negative regions']} negative regions."
        )
        self.told.setText(told)
        self._owner.box.say("Two layers show anchors and regions that a training step would learn from.")


def learning_job(inspection: Any, truth: Any) -> Generator[Any, None, Any]:
    """What a training step would learn."""
    yield Progress(0.2, "matching anchors with the labels")
    from napari_deepretina.inspection.learning import what_is_learnt

    return what_is_learnt(inspection, truth)
