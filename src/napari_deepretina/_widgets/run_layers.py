"""What a run makes of its first validation image, as layers that are never taken for a person's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import napari.viewer
from napari.layers import Image, Labels, Layer

from napari_deepretina._widgets.placing import bright_colours

NAME = "training sample"
MARK = "napari-deepretina-run"
"""In the metadata of these layers: the run's folder."""


def of_a_run(layer: Layer) -> bool:
    """Whether a layer shows what a run makes of an image: no truth to learn from."""
    return MARK in layer.metadata


class RunLayers:
    """Image and labels of a run's sample, renewed whenever the run judges again."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self._shown: tuple[Path, float] | None = None

    def show(self, folder: Path) -> None:
        """Show the sample in a run's folder, if it is there and has changed."""
        path = folder / "sample" / "labels.tif"
        try:
            state = folder, path.stat().st_mtime
        except OSError:
            return
        if state == self._shown:
            return
        import tifffile

        self._shown = state
        found = tifffile.imread(path)
        layer = self._own(Labels)
        if layer is not None and layer.data.shape == found.shape and layer.metadata[MARK] == str(folder):
            layer.data = found
            return
        image = tifffile.imread(folder / "sample" / "image.tif")
        mark: dict[str, Any] = {"metadata": {MARK: str(folder)}}
        for old in (self._own(Labels), self._own(Image)):
            if old is not None:
                self._viewer.layers.remove(old)
        self._viewer.add_image(image, name=NAME, rgb=image.ndim == 3, **mark)
        labels = self._viewer.add_labels(found, name=f"{NAME} nuclei", colormap=bright_colours(), **mark)
        labels.contour = 2

    def _own(self, kind: Any) -> Any:
        return next((x for x in self._viewer.layers if isinstance(x, kind) and of_a_run(x)), None)
