"""A layer to look at while a run goes on: what is known of its result so far."""

from __future__ import annotations

from typing import Any

import napari.viewer
import numpy as np
from napari.layers import Labels

from napari_deepretina._widgets.placing import bright_colours
from napari_deepretina.inference.steps import Patch


class SoFar:
    """Patches of labels appear as they come; only their part of the picture is drawn anew.

    Ids are those of a patch, modulo 65,535: half the memory, and enough for colours. The layer cannot be
    edited, for strokes in it would be lost.
    """

    def __init__(
        self, viewer: napari.viewer.Viewer, shape: tuple[int, ...], name: str, placed: dict[str, Any]
    ) -> None:
        self._viewer = viewer
        self.layer = Labels(np.zeros(shape, np.uint16), name=name, colormap=bright_colours(), **placed)
        self._used = 0
        viewer.add_layer(self.layer)
        self.layer.editable = False

    def show(self, patch: Patch) -> None:
        """Add a patch, if the layer was not taken away."""
        if self.layer not in self._viewer.layers:
            return
        inside = np.nonzero(patch.labels)
        ids = (patch.labels[inside].astype(np.int64) + self._used - 1) % 65_535 + 1
        self._used += int(patch.labels.max(initial=0))
        where = tuple(axis + start for axis, start in zip(inside, patch.start, strict=True))
        if len(ids):
            self.layer.data_setitem(where, ids.astype(np.uint16))
            self.layer._undo_history.clear()

    def remove(self) -> None:
        """Take the layer away, if nobody did."""
        if self.layer in self._viewer.layers:
            self._viewer.layers.remove(self.layer)
